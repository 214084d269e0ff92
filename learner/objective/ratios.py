"""Ratios of probabilities over tokens, steps and trajectories, and the weights that correct for the engine.

Owns `log_ratio`, `policy_ratio` and `importance_weights`. Pure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objective.config import (
    CorrectionConfig,
    GspoConfig,
    IcePopConfig,
    Level,
    MaskedConfig,
    NoCorrection,
    SurrogateConfig,
    TruncatedConfig,
)
from learner.objective.row import RowCredit


def log_ratio(gaps: Tensor, row: RowCredit, level: Level) -> Tensor:
    """Σ_i (log p − log q) over the tokens of each token's unit: the log-ratio of the whole unit. [N] → [N], nats."""
    match level:
        case "token":
            return gaps
        case "step":
            return _shared_sum(gaps, row.step)
        case "trajectory":
            return _shared_sum(gaps, row.trajectory)


def policy_ratio(logprobs: Tensor, row: RowCredit, config: SurrogateConfig) -> Tensor:
    """ρ = π / π_old of each token's unit, with the gradient of the token alone. [N].

    At the level of a token it is exp(l_i − l_i,old). Above it, ρ_i = sg[ρ_unit] · π_i / sg[π_i] (GSPO-token, Zheng et
    al. 2025, §4.3): it has the value of the unit's ratio, and ρ_i·Â_i has the gradient ρ_unit·Â_i·∇l_i, so that the
    steps of one trajectory keep their own advantages. GSPO takes the geometric mean of the unit's ratios, the others
    their product.
    """
    gaps = logprobs - row.old
    if config.level == "token":
        return gaps.exp()
    unit = log_ratio(gaps.detach(), row, config.level)
    if isinstance(config, GspoConfig):
        unit = unit / (row.step_tokens if config.level == "step" else row.trajectory_tokens)
    return unit.exp() * (logprobs - logprobs.detach()).exp()


def importance_weights(row: RowCredit, config: CorrectionConfig) -> Tensor:
    """w = π_old / π_behaviour of each token's unit, truncated or masked. [N], without gradient.

    The decoupled objective (Hilton et al. 2021) is w·surrogate(π / π_old): what the engine sampled otherwise than
    the learner computes is corrected apart from what the optimiser has moved.
    """
    if isinstance(config, NoCorrection):
        return torch.ones_like(row.behaviour)
    raw = log_ratio(row.old - row.behaviour, row, config.level).exp()
    match config:
        case TruncatedConfig():
            return raw.clamp(max=config.cap)
        case MaskedConfig():
            return torch.where(raw <= config.cap, raw, 0.0)
        case IcePopConfig():
            return torch.where((raw >= config.low) & (raw <= config.high), raw, 0.0)


def _shared_sum(per_token: Tensor, unit: Tensor) -> Tensor:
    count = int(unit.max()) + 1 if len(unit) else 0
    return per_token.new_zeros(count).index_add(0, unit, per_token)[unit]
