"""Rejection-sampling fine-tuning: imitate what solved its task.

    Â_i = 1 where o_i = 1; the other trajectories have no credit

(Yuan et al. 2023, arXiv 2308.01825.) On the policy that sampled it, the gradient of the clipped objective is then that
of maximum likelihood on the solved trajectories; several passes stay inside the clip.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import RftConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.outcome import by_outcome, outcomes_of


def estimate(batch: Sequence[KeptSteps], config: RftConfig) -> list[Estimate]:
    """1 for a solved trajectory, None for any other."""
    return by_outcome(batch, [1.0 if outcome >= 1.0 else None for outcome in outcomes_of(batch)])
