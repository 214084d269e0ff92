"""The objective of reinforcement learning and of the warm start, as pure functions of log-probabilities.

Owns `RowLoss`, `BatchScale` and `LossStats`. Consumes a row's outputs and credit; knows nothing of models or ranks.

Every sum is divided by a count taken over the whole batch, so that cutting the batch into rows, micro-batches and ranks
leaves loss and gradient as they are: the losses of all rows add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from learner.config import LossConfig


@dataclass(frozen=True, slots=True)
class BatchScale:
    """Counts over the whole batch, all ranks and rows together."""

    action_tokens: int
    """Action tokens with credit, those of zero advantage included."""
    states: int
    """Steps with a value target."""


@dataclass(frozen=True, slots=True)
class LossStats:
    """Of one row or of a batch; sums, so that they add. `summary` divides."""

    loss: float
    policy_loss: float
    value_loss: float
    kl_loss: float
    tokens: int
    """Action tokens computed; with `Keep.CREDITED` those with a non-zero advantage."""
    ratio_sum: float
    ratio_max: float
    clipped: int
    behaviour_kl_sum: float
    """k3 estimate of KL(behaviour ‖ current), nats."""
    reference_kl_sum: float
    entropy_sum: float
    entropy_positions: int

    @classmethod
    def total(cls, parts: Sequence[LossStats]) -> LossStats:
        """Add up the rows of a batch."""
        names = [field.name for field in fields(cls) if field.name != "ratio_max"]
        sums = {name: sum(getattr(part, name) for part in parts) for name in names}
        return cls(**sums, ratio_max=max((part.ratio_max for part in parts), default=0.0))

    def summary(self) -> dict[str, float]:
        """Means, by the names that metrics use."""
        tokens, positions = max(self.tokens, 1), max(self.entropy_positions, 1)
        return {
            "loss": self.loss,
            "policy_loss": self.policy_loss,
            "value_loss": self.value_loss,
            "kl_loss": self.kl_loss,
            "ratio_mean": self.ratio_sum / tokens,
            "ratio_max": self.ratio_max,
            "clip_fraction": self.clipped / tokens,
            "behaviour_kl": self.behaviour_kl_sum / tokens,
            "reference_kl": self.reference_kl_sum / tokens,
            "entropy": self.entropy_sum / positions,
        }


@dataclass(frozen=True, slots=True)
class Credit:
    """What the losses need of a row: N action tokens, S states."""

    behaviour: Tensor
    """[N] nats, as sampled."""
    advantages: Tensor
    """[N]."""
    value_targets: Tensor
    """[S] units of reward."""
    reference: Tensor | None
    """[N] nats under the frozen reference; None where there is no KL term."""


def k3(logprobs: Tensor, other: Tensor) -> Tensor:
    """exp(o − l) − (o − l) − 1: an unbiased, non-negative estimate of KL(l ‖ o) for samples of l (Schulman 2020)."""
    gap = other - logprobs
    return gap.exp() - gap - 1.0


def clipped_objective(ratio: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """min(ρ·Â, clip(ρ, 1−ε_low, 1+ε_high)·Â) per token (Schulman et al. 2017, eq. 7), with ρ first cut at the cap.

    The cap bounds the one branch that clipping leaves open: a negative advantage with a large ratio (Ye et al. 2020).
    """
    capped = ratio.clamp(max=config.importance_cap)
    clipped = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    return torch.minimum(capped * advantages, clipped * advantages)


def policy_loss(logprobs: Tensor, credit: Credit, scale: BatchScale, config: LossConfig) -> Tensor:
    """−Σ_t Σ_i min(…)·Â_t / tokens: E[Σ_t Â_t Σ_i log π(a_t^i)] (StepTool, §4.2) as clipped PPO. A scalar.

    The ratio is taken against the behaviour log-probabilities that the engine recorded.
    """
    ratio = (logprobs - credit.behaviour).exp()
    return -clipped_objective(ratio, credit.advantages, config).sum() / scale.action_tokens


def value_loss(values: Tensor, credit: Credit, scale: BatchScale) -> Tensor:
    """½·Σ (V(s_t) − target_t)² / states. A scalar."""
    return 0.5 * (values - credit.value_targets).square().sum() / max(scale.states, 1)


def imitation_loss(logprobs: Tensor, scale: BatchScale) -> Tensor:
    """−Σ log π / tokens: maximum likelihood of the demonstrated tokens. A scalar, nats per token."""
    return -logprobs.sum() / scale.action_tokens


@dataclass(frozen=True, slots=True)
class RowLoss:
    """A row's share of the batch's loss, with its gradient, and its statistics."""

    loss: Tensor
    stats: LossStats


def reinforcement_loss(
    logprobs: Tensor,
    values: Tensor,
    entropies: Tensor,
    credit: Credit,
    scale: BatchScale,
    config: LossConfig,
    *,
    value_coef: float,
) -> RowLoss:
    """Policy, value and KL terms of one row. `value_coef` is 0 where the critic is not the value head."""
    policy = policy_loss(logprobs, credit, scale, config)
    # A zero-weighted term stays in the graph: ZeRO waits for a gradient of every parameter on every rank.
    value = value_coef * value_loss(values, credit, scale) if value_coef else values.sum() * 0.0
    kl_tokens = torch.zeros_like(logprobs) if credit.reference is None else k3(logprobs, credit.reference)
    coef = config.kl.coef if config.kl.kind == "reference" else 0.0
    kl = coef * kl_tokens.sum() / scale.action_tokens
    loss = policy + value + kl
    parts = [float(part.detach()) for part in (loss, policy, value, kl)]
    return RowLoss(loss, _stats(parts, logprobs.detach(), entropies, credit, kl_tokens.detach(), config))


def _stats(
    parts: Sequence[float], logprobs: Tensor, entropies: Tensor, credit: Credit, kl_tokens: Tensor, config: LossConfig
) -> LossStats:
    ratio = (logprobs - credit.behaviour).exp()
    outside = (ratio < 1.0 - config.clip_low) & (credit.advantages < 0)
    outside |= (ratio > 1.0 + config.clip_high) & (credit.advantages > 0)
    loss, policy, value, kl = parts
    return LossStats(
        loss=loss,
        policy_loss=policy,
        value_loss=value,
        kl_loss=kl,
        tokens=len(ratio),
        ratio_sum=float(ratio.sum()),
        ratio_max=float(ratio.max()) if len(ratio) else 0.0,
        clipped=int(outside.sum()),
        behaviour_kl_sum=float(k3(credit.behaviour, logprobs).sum()),
        reference_kl_sum=float(kl_tokens.sum()),
        entropy_sum=float(entropies.sum()),
        entropy_positions=len(entropies),
    )
