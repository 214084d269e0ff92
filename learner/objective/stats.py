"""What an update's rows measured. Owns `KlSums`, `LossStats` and how they are taken.

Everything is a sum or a maximum, so that rows, ranks and minibatches add up to what one row of the whole batch says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor

from learner.objective.config import KlEstimator, LossConfig
from learner.objective.kl import k1, k2, k3
from learner.objective.row import RowCredit
from learner.objective.surrogates import clipped

_MAXIMA = ("ratio_max", "weight_max")


@dataclass(frozen=True, slots=True)
class KlSums:
    """KL(policy ‖ reference) over action tokens by each estimator."""

    reference_tokens: int
    """0 where there is no reference."""
    reference_k1_sum: float
    reference_k2_sum: float
    reference_k3_sum: float

    @classmethod
    def of(cls, logprobs: Tensor, reference: Tensor | None) -> KlSums:
        """Of samples of the policy, [N] each, in nats."""
        if reference is None:
            return cls(0, 0.0, 0.0, 0.0)
        sums = [float(one(logprobs, reference).sum()) for one in (k1, k2, k3)]
        return cls(len(logprobs), *sums)

    @classmethod
    def total(cls, parts: Sequence[KlSums]) -> KlSums:
        """Add up rows."""
        return cls(**{field.name: sum(getattr(part, field.name) for part in parts) for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class LossStats:
    """Of one row or of a batch. `summary` divides."""

    loss: float
    policy_loss: float
    value_loss: float
    kl_loss: float
    entropy_loss: float
    tokens: int
    """Action tokens computed; where only credited ones are kept, those with a non-zero advantage."""
    ratio_sum: float
    ratio_max: float
    clipped_low: int
    clipped_high: int
    behaviour_kl_sum: float
    """k3 estimate of KL(behaviour ‖ current), nats."""
    old_kl_sum: float
    """k3 estimate of KL(old ‖ current), nats: how far the optimiser has moved what ratios compare with."""
    weight_sum: float
    """Importance weights; 1 a token where nothing is corrected."""
    weight_max: float
    masked: int
    """Tokens whose importance weight is 0."""
    entropy_sum: float
    reference_tokens: int
    reference_k1_sum: float
    reference_k2_sum: float
    reference_k3_sum: float
    states: int
    """States whose value the critic was asked for; 0 where it is no value head."""
    target_sum: float
    target_square_sum: float
    error_sum: float
    """Of target − value."""
    error_square_sum: float
    pairs: int
    """Pairs of trajectories that were compared; 0 where the loss is one of advantages."""
    pairs_in_order: int
    """Those with a positive margin: the policy prefers what is preferred more than the reference does."""
    margin_sum: float
    """Of the pairs' margins, nats."""

    @classmethod
    def total(cls, parts: Sequence[LossStats]) -> LossStats:
        """Add up the rows of a batch."""
        names = [field.name for field in fields(cls)]
        sums = {name: sum(getattr(part, name) for part in parts) for name in names if name not in _MAXIMA}
        maxima: dict[str, Any] = {name: max((getattr(part, name) for part in parts), default=0.0) for name in _MAXIMA}
        return cls(**sums, **maxima)

    def with_reference(self, sums: KlSums) -> LossStats:
        """The same with a KL that was measured elsewhere."""
        return replace(self, **asdict(sums))

    def reference_kl_sum(self, estimator: KlEstimator) -> float:
        """KL(policy ‖ reference) over `reference_tokens` tokens, in nats."""
        sums = {"k1": self.reference_k1_sum, "k2": self.reference_k2_sum, "k3": self.reference_k3_sum}
        return sums[estimator]

    def summary(self) -> dict[str, float]:
        """Means, by the names that metrics use. What was not measured has no name here."""
        tokens = max(self.tokens, 1)
        return {
            "loss": self.loss,
            "policy_loss": self.policy_loss,
            "value_loss": self.value_loss,
            "kl_loss": self.kl_loss,
            "entropy_loss": self.entropy_loss,
            "ratio_mean": self.ratio_sum / tokens,
            "ratio_max": self.ratio_max,
            "clip_fraction": (self.clipped_low + self.clipped_high) / tokens,
            "clip_fraction_low": self.clipped_low / tokens,
            "clip_fraction_high": self.clipped_high / tokens,
            "behaviour_kl": self.behaviour_kl_sum / tokens,
            "old_kl": self.old_kl_sum / tokens,
            "weight_mean": self.weight_sum / tokens,
            "weight_max": self.weight_max,
            "masked_fraction": self.masked / tokens,
            "entropy": self.entropy_sum / tokens,
            **self._reference_summary(),
            **self._critic_summary(),
            **self._preference_summary(),
        }

    def _reference_summary(self) -> dict[str, float]:
        names: tuple[KlEstimator, ...] = ("k1", "k2", "k3") if self.reference_tokens else ()
        return {f"reference_{name}": self.reference_kl_sum(name) / self.reference_tokens for name in names}

    def _critic_summary(self) -> dict[str, float]:
        """1 − Var(target − V) / Var(target); 0 where the targets do not differ."""
        if not self.states:
            return {}
        spread = _variance(self.target_sum, self.target_square_sum, self.states)
        left = _variance(self.error_sum, self.error_square_sum, self.states)
        return {"explained_variance": 1.0 - left / spread if spread > 0.0 else 0.0}

    def _preference_summary(self) -> dict[str, float]:
        if not self.pairs:
            return {}
        return {
            "preference_pairs": float(self.pairs),
            "preference_accuracy": self.pairs_in_order / self.pairs,
            "preference_margin": self.margin_sum / self.pairs,
        }


@dataclass(frozen=True, slots=True)
class Terms:
    """The parts of a row's loss, each with its coefficient: loss = policy + value + kl + entropy."""

    policy: Tensor
    value: Tensor
    kl: Tensor
    entropy: Tensor

    def loss(self) -> Tensor:
        return self.policy + self.value + self.kl + self.entropy


def measure(
    terms: Terms,
    logprobs: Tensor,
    entropies: Tensor,
    ratio: Tensor,
    weights: Tensor,
    row: RowCredit,
    config: LossConfig,
) -> LossStats:
    """Statistics of a row's policy; `with_critic` adds those of a value head. [N] each, without gradient."""
    low, high = clipped(ratio, row.advantages, config.surrogate)
    return LossStats(
        loss=float(terms.loss().detach()),
        policy_loss=float(terms.policy.detach()),
        value_loss=float(terms.value.detach()),
        kl_loss=float(terms.kl.detach()),
        entropy_loss=float(terms.entropy.detach()),
        tokens=len(ratio),
        ratio_sum=float(ratio.sum()),
        ratio_max=_largest(ratio),
        clipped_low=int(low.sum()),
        clipped_high=int(high.sum()),
        behaviour_kl_sum=float(k3(row.behaviour, logprobs).sum()),
        old_kl_sum=float(k3(row.old, logprobs).sum()),
        weight_sum=float(weights.sum()),
        weight_max=_largest(weights),
        masked=int((weights == 0.0).sum()),
        entropy_sum=float(entropies.sum()),
        **asdict(KlSums.of(logprobs, row.reference)),
        states=0,
        target_sum=0.0,
        target_square_sum=0.0,
        error_sum=0.0,
        error_square_sum=0.0,
        pairs=0,
        pairs_in_order=0,
        margin_sum=0.0,
    )


def with_critic(stats: LossStats, values: Tensor, targets: Tensor) -> LossStats:
    """The same with how well `values` explain `targets`; [S] each, in units of reward."""
    exact, error = targets.double(), targets.double() - values.double()
    return replace(
        stats,
        states=len(targets),
        target_sum=float(exact.sum()),
        target_square_sum=float(exact.square().sum()),
        error_sum=float(error.sum()),
        error_square_sum=float(error.square().sum()),
    )


def _largest(numbers: Tensor) -> float:
    return float(numbers.max()) if len(numbers) else 0.0


def _variance(total: float, square_total: float, count: int) -> float:
    return max(square_total / count - (total / count) ** 2, 0.0)
