"""From numbers per token to one number for the batch. Owns `BatchScale` and `aggregate`. Pure.

Every sum is divided by counts taken over the whole batch, so that cutting the batch into rows, micro-batches and ranks
leaves loss and gradient as they are: the losses of all rows add up.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from learner.objective.config import Aggregation
from learner.objective.row import RowCredit


@dataclass(frozen=True, slots=True)
class BatchScale:
    """Counts over the whole batch, all ranks and rows together; those of zero advantage included."""

    action_tokens: int
    """Action tokens with credit."""
    steps: int
    """Steps with credit."""
    trajectories: int
    """Trajectories with a step with credit."""
    states: int
    """Steps with a value target."""


def aggregate(per_token: Tensor, row: RowCredit, scale: BatchScale, aggregation: Aggregation) -> Tensor:
    """The row's share of a mean over the batch. [N] → scalar.

    - token_mean: Σ x / tokens (DAPO, Yu et al. 2025, §3.3). A long step weighs more than a short one.
    - step_mean: Σ_t (Σ_i x_ti / n_t) / steps. Every step weighs the same.
    - trajectory_mean: Σ_τ (Σ x / n_τ) / trajectories (GRPO, Shao et al. 2024, eq. 3). Every trajectory weighs the same.
    """
    match aggregation:
        case "token_mean":
            return per_token.sum() / scale.action_tokens
        case "step_mean":
            return (per_token / row.step_tokens).sum() / scale.steps
        case "trajectory_mean":
            return (per_token / row.trajectory_tokens).sum() / scale.trajectories
