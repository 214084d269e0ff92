"""What an estimator returns, before anything is whitened, mixed or clipped.

Owns `Estimate`. A unit is whatever the estimator gives credit to: a trajectory has one, a step is one, or each step is
a unit of several numbers, one a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learner.credit.credited import Numbers


@dataclass(frozen=True, slots=True)
class Estimate:
    """Credit of one trajectory's units, in units of reward."""

    advantages: tuple[Numbers | None, ...]
    """None where a unit has no credit."""
    returns: tuple[Numbers | None, ...]
    """Of each kept step: targets of the critic, or what the step's return was."""
    seen: Numbers
    """What the estimator saw: two trajectories of a group that differ in it cannot both be worth nothing to learn."""


def by_step(advantages: Sequence[float | None], returns: Sequence[float | None], seen: Sequence[float]) -> Estimate:
    """One number for each kept step."""
    return Estimate(_units(advantages), _units(returns), tuple(seen))


def by_trajectory(advantage: float | None, steps: int, target: float | None, seen: Sequence[float]) -> Estimate:
    """One number for a trajectory of `steps` kept steps."""
    return Estimate(_units([advantage]), _units([target] * steps), tuple(seen))


def _units(numbers: Sequence[float | None]) -> tuple[Numbers | None, ...]:
    return tuple(None if number is None else (number,) for number in numbers)
