"""The loss of one row: the objective put together, negated. Owns `reinforcement_loss` and `imitation_loss`. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from learner.objective.aggregation import BatchScale, aggregate
from learner.objective.config import EntropyBonus, LossConfig, NoCorrection, NoKl
from learner.objective.critic import value_loss
from learner.objective.kl import estimate
from learner.objective.ratios import importance_weights, policy_ratio
from learner.objective.row import RowCredit
from learner.objective.stats import LossStats, Terms, measure, with_critic
from learner.objective.surrogates import surrogate


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the policy says of a row's N action tokens and S states; with gradient."""

    logprobs: Tensor
    """[N] nats."""
    entropies: Tensor
    """[N] nats, of the distribution from which each token came."""
    values: Tensor
    """[S] units of reward."""


@dataclass(frozen=True, slots=True)
class ValueTerm:
    """How the value head learns."""

    coef: float
    clip: float | None
    """None: not clipped."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What changes from one optimiser step to the next, or depends on the critic."""

    policy: float
    """1, or 0 while the critic learns alone: policy, KL and entropy have no gradient then."""
    kl: float
    """Coefficient of the KL term."""
    value: ValueTerm | None
    """None where the critic is no value head."""


@dataclass(frozen=True, slots=True)
class RowLoss:
    """A row's share of the batch's loss, with its gradient, and its statistics."""

    loss: Tensor
    stats: LossStats


def reinforcement_loss(
    predicted: Predictions, row: RowCredit, scale: BatchScale, config: LossConfig, weights: Weights
) -> RowLoss:
    """−Σ_t Σ_i w·surrogate(ρ, Â_t), aggregated: E[Σ_t Â_t Σ_i log π(a_t^i)] (StepTool, §4.2), with the other terms."""
    ratio = policy_ratio(predicted.logprobs, row, config.surrogate)
    corrections = importance_weights(row, config.correction)
    objective = surrogate(ratio, predicted.logprobs, row.advantages, config.surrogate)
    if not isinstance(config.correction, NoCorrection):
        objective = corrections * objective
    terms = Terms(
        policy=weights.policy * -aggregate(objective, row, scale, config.aggregation),
        value=_value_term(predicted.values, row, scale, weights.value),
        kl=weights.policy * _kl_term(predicted.logprobs, row, scale, config, weights.kl),
        entropy=weights.policy * _entropy_term(predicted.entropies, row, scale, config),
    )
    seen = predicted.logprobs.detach(), predicted.entropies.detach()
    stats = measure(terms, *seen, ratio.detach(), corrections, row, config)
    if weights.value is not None:
        stats = with_critic(stats, predicted.values.detach(), row.value_targets)
    return RowLoss(terms.loss(), stats)


def imitation_loss(logprobs: Tensor, action_tokens: int) -> Tensor:
    """−Σ log π / tokens of the batch: maximum likelihood of the demonstrated tokens. A scalar, nats per token."""
    return -logprobs.sum() / action_tokens


def compares_whole_units(config: LossConfig) -> bool:
    """Whether a ratio or a weight spans several tokens, so that none with credit may be left out."""
    corrects = not isinstance(config.correction, NoCorrection) and config.correction.level != "token"
    return corrects or config.surrogate.level != "token"


def has_gradient_without_advantage(config: LossConfig) -> bool:
    """Whether a token of zero advantage has a gradient, from a KL or an entropy term."""
    return isinstance(config.entropy, EntropyBonus) or has_kl_term(config)


def has_kl_term(config: LossConfig) -> bool:
    """Whether the loss, and not the reward, holds the KL to the reference."""
    return not isinstance(config.kl, NoKl) and config.kl.place == "loss"


def _value_term(values: Tensor, row: RowCredit, scale: BatchScale, term: ValueTerm | None) -> Tensor:
    if term is None:
        # A zero-weighted term stays in the graph: ZeRO waits for a gradient of every parameter on every rank.
        return values.sum() * 0.0
    return term.coef * value_loss(values, row, scale, term.clip)


def _kl_term(logprobs: Tensor, row: RowCredit, scale: BatchScale, config: LossConfig, coef: float) -> Tensor:
    if isinstance(config.kl, NoKl) or row.reference is None:
        return logprobs.new_zeros(())
    return coef * aggregate(estimate(logprobs, row.reference, config.kl.estimator), row, scale, config.aggregation)


def _entropy_term(entropies: Tensor, row: RowCredit, scale: BatchScale, config: LossConfig) -> Tensor:
    """−coef·H: the loss falls where entropy rises."""
    if not isinstance(config.entropy, EntropyBonus):
        return entropies.new_zeros(())
    return -config.entropy.coef * aggregate(entropies, row, scale, config.aggregation)
