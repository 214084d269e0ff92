"""A trajectory as estimators see it: the steps that did not abstain, and what is known of each.

Owns `KeptSteps`. Consumes scored trajectories and, where there is a critic, its readings. Pure.

The house's rules on what counts are kept here and nowhere else. An abstained step is taken out before any recursion or
statistic: no delta, no decay, no place in a mean. The others keep the index that they have in their trajectory, and are
compared with steps of that index. Infrastructure that cut an episode short leaves its return unknown:
estimators with a critic go on from the value of the state at which it was cut, the others give it no credit. Every
other end is the model's doing, and nothing follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.scoring import ScoredTrajectory
from actors.trajectory import Step
from learner.credit.credited import Credits, Numbers, StateAt
from tool_sandbox.tasks import StopReason

Readings = Sequence[Sequence[float | None]]
"""Values of each trajectory's states, abstained steps included, in units of reward: one a step, one a token, or V and Q
of each step. None where nobody knows the value of the state before a step."""


@dataclass(frozen=True, slots=True)
class KeptSteps:
    """n steps of one trajectory."""

    scored: ScoredTrajectory
    indices: tuple[int, ...]
    """[n] where they stand in the trajectory."""
    rewards: tuple[float, ...]
    """[n]."""
    values: tuple[Numbers, ...] = ()
    """[n] V at the states of each step, or its V and Q, () of a step where nobody knows it; () where there is no
    critic."""
    bootstrap: float | None = 0.0
    """V of the state at which infrastructure cut the episode, None where nobody read it; 0 where it ended by itself."""

    @property
    def group(self) -> str:
        return self.scored.trajectory.group

    @property
    def outcome(self) -> float | None:
        """1 solved, 0 not; None where nobody knows."""
        return self.scored.reward.solved

    @property
    def was_cut(self) -> bool:
        return self.scored.trajectory.stop is StopReason.INFRASTRUCTURE

    @property
    def last(self) -> int:
        """Index of the trajectory's last step, whether it abstained or not; −1 where there is none."""
        return len(self.scored.trajectory.steps) - 1

    @property
    def value_at_end(self) -> float:
        """V of the state after the last step.

        Raises:
            ValueError: nobody knows it; trajectories without one must not get here.
        """
        if self.bootstrap is None:
            raise ValueError(f"trajectory {self.scored.trajectory.id!r}: cut, and no value there; leave it out")
        return self.bootstrap

    @property
    def steps(self) -> list[Step]:
        """[n]."""
        return [self.scored.trajectory.steps[t] for t in self.indices]

    @property
    def step_values(self) -> list[float]:
        """[n] V at the state before each step."""
        return [numbers[0] for numbers in self.values]

    def signal(self, name: str) -> list[float | None]:
        """[n] what a signal said of each step; None where it said nothing."""
        return [self.scored.reward.steps[t].signals.get(name) for t in self.indices]

    def by_index(self, numbers: Sequence[float]) -> dict[int, float]:
        """n numbers by where their steps stand in the trajectory."""
        return dict(zip(self.indices, numbers, strict=True))

    def spread(self, numbers: Sequence[float | None]) -> Credits:
        """Put n numbers back in their places, None elsewhere."""
        spread: list[float | None] = [None] * len(self.scored.trajectory.steps)
        for index, number in zip(self.indices, numbers, strict=True):
            spread[index] = number
        return tuple(spread)


def keep(scored: ScoredTrajectory, values: Sequence[Numbers] | None = None) -> KeptSteps:
    """The steps that did not abstain. `values` holds those of every step, abstained ones included."""
    pairs = [(t, step.value) for t, step in enumerate(scored.reward.steps) if step.value is not None]
    indices, rewards = tuple(t for t, _ in pairs), tuple(reward for _, reward in pairs)
    if values is None:
        return KeptSteps(scored, indices, rewards)
    kept = tuple(values[t] for t in indices)
    return KeptSteps(scored, indices, rewards, kept, _value_at_end(scored, indices, values))


def read_by_step(scored: Sequence[ScoredTrajectory], readings: Readings, at: StateAt, kind: str) -> list[list[Numbers]]:
    """Readings of each trajectory, step by step.

    Raises:
        ValueError: there are not as many as there are states.
    """
    sizes = [[_readings_of(step, at) for step in one.trajectory.steps] for one in scored]
    found, expected = [len(one) for one in readings], [sum(one) for one in sizes]
    if found != expected:
        raise ValueError(
            f"{kind}: values of lengths {found} for trajectories of {expected} {at.value}; read one at each of them"
        )
    return [_cut(numbers, size) for numbers, size in zip(readings, sizes, strict=True)]


def _readings_of(step: Step, at: StateAt) -> int:
    return {StateAt.STEPS: 1, StateAt.TOKENS: len(step.action_ids), StateAt.UTTERANCES: 2}[at]


def _cut(numbers: Sequence[float | None], sizes: Sequence[int]) -> list[Numbers]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = (numbers[end - size : end] for end, size in zip(ends, sizes, strict=True))
    return [tuple(number for number in part if number is not None) for part in parts]


def _value_at_end(scored: ScoredTrajectory, indices: Sequence[int], values: Sequence[Numbers]) -> float | None:
    if scored.trajectory.stop is not StopReason.INFRASTRUCTURE:
        return 0.0
    after = indices[-1] + 1 if indices else 0
    # What followed the last step is no state of the trajectory where even its observation was lost.
    return next(iter(values[after]), None) if after < len(values) else None
