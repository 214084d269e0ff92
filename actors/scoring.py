"""Scored trajectories, and the way from a trajectory to the reward service.

Owns `ScoredTrajectory`. Loads neither torch nor vLLM nor Ray.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.trajectory import Trajectory
from reward_service.rewards import TrajectoryReward


@dataclass(frozen=True, slots=True)
class ScoredTrajectory:
    """A trajectory and one reward for each of its steps."""

    trajectory: Trajectory
    reward: TrajectoryReward

    def __post_init__(self) -> None:
        steps, rewards = len(self.trajectory.steps), len(self.reward.steps)
        if steps != rewards:
            raise ValueError(
                f"trajectory {self.trajectory.id!r}: {rewards} step rewards for {steps} steps; "
                "score every step, and abstain where there is no verdict"
            )
