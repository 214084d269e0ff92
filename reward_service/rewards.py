"""What a scored step is. Owns `StepReward` and `TrajectoryReward`; plain values without pydantic, HTTP or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReward:
    """The reward of one step and the signals that it was made from."""

    value: float | None
    """None means abstained: the step has no credit. It is not a reward of zero."""
    signals: Mapping[str, float | None]
    """Raw signals by name (`success`, `contribution`, `solved`), before weighting; None where a signal abstained."""

    @property
    def abstained(self) -> bool:
        """Whether the step has no credit."""
        return self.value is None


@dataclass(frozen=True, slots=True)
class TrajectoryReward:
    """The rewards of all steps of one trajectory, in order."""

    trajectory_id: str
    steps: tuple[StepReward, ...]
    solved: float | None
    """1 solved, 0 not; None where the task has no ground truth to tell."""
    reward_version: str
    """Hash of everything that shaped these numbers; a run never mixes two."""
