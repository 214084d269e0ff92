"""What an estimator returns, before anything is whitened, mixed or clipped.

Owns `Estimate`. A unit is whatever the estimator gives credit to: a trajectory has one, a step is one, or each step is
a unit of several numbers, one a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.credit.credited import Numbers
from learner.credit.kept import KeptSteps


@dataclass(frozen=True, slots=True)
class Estimate:
    """Credit of one trajectory's units, in units of reward."""

    advantages: tuple[Numbers | None, ...]
    """None where a unit has no credit."""
    returns: tuple[Numbers | None, ...]
    """Of each kept step: targets of the critic, or what the step's return was."""
    seen: Mapping[int, float]
    """What the estimator saw at step indices at which a group is compared, at 0 where it compares whole trajectories:
    two that differ at one of them cannot both be worth nothing to learn."""


def by_step(advantages: Sequence[float | None], returns: Sequence[float | None], seen: Mapping[int, float]) -> Estimate:
    """One number for each kept step."""
    return Estimate(_units(advantages), _units(returns), seen)


def by_trajectory(advantage: float | None, steps: int, target: float | None, seen: float) -> Estimate:
    """One number for a trajectory of `steps` kept steps."""
    return Estimate(_units([advantage]), _units([target] * steps), {0: seen})


def from_the_prompt(one: KeptSteps, returns: Sequence[float]) -> dict[int, float]:
    """What a critic has to foretell in the one state that the whole group saw, from the returns of the kept steps.

    Where every advantage is zero, it foretold exactly that; later states, and their values, are each trajectory's own.
    Nothing where the first step abstained.
    """
    return {0: returns[0]} if 0 in one.indices else {}


def _units(numbers: Sequence[float | None]) -> tuple[Numbers | None, ...]:
    return tuple(None if number is None else (number,) for number in numbers)
