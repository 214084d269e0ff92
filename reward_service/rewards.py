"""What a scored step is: its reward, what it is made of, and the signals behind it. Plain values without pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a step's reward."""

    name: str
    raw: float
    """As measured."""
    weight: float

    @property
    def value(self) -> float:
        """What it adds to the reward."""
        return self.weight * self.raw


@dataclass(frozen=True, slots=True)
class Votes:
    """How far the votes behind one number agree."""

    count: int
    """0 where the number is a fact that nobody was asked about."""
    variance: float
    """Of the votes around their mean, divided by their number: 0 where all agree."""


@dataclass(frozen=True, slots=True)
class StepReward:
    """The reward of one step and the signals that it was made from."""

    value: float | None
    """None means abstained: the step has no credit. It is not a reward of zero."""
    signals: Mapping[str, float | None]
    """Raw signals by name (`success`, `contribution`, `solved`), before weighting; None where a signal abstained."""
    components: tuple[Component, ...] = ()
    """What `value` is the sum of, where the scorer is near enough to know."""
    why: str | None = None
    """In words, where a scorer gave any."""
    votes: Mapping[str, Votes] = field(default_factory=dict[str, Votes])
    """By signal, of those that were voted on."""

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
