"""What the estimators share that see a trajectory's outcome and none of its step rewards. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.estimate import Estimate, by_trajectory
from learner.credit.kept import KeptSteps


def outcomes_of(batch: Sequence[KeptSteps]) -> list[float]:
    """IsSolved of each trajectory.

    Raises:
        ValueError: one is unknown; trajectories without an outcome must not get here.
    """
    found = [one.outcome for one in batch if one.outcome is not None]
    if len(found) != len(batch):
        raise ValueError(f"outcomes: {len(found)} known of {len(batch)} trajectories; leave out those without one")
    return found


def by_outcome(batch: Sequence[KeptSteps], advantages: Sequence[float | None]) -> list[Estimate]:
    """One number a trajectory; what it saw is the outcome."""
    return [
        by_trajectory(advantage, len(one.indices), outcome, outcome)
        for one, advantage, outcome in zip(batch, advantages, outcomes_of(batch), strict=True)
    ]
