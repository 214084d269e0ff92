"""What a judge is asked about a trajectory, and which numbers nobody has to be asked about.

Owns the limits of every step: what its typed status allows. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from reward_service.judge.judgement import HIGHEST_CONTRIBUTION, Flag, Place
from reward_service.signals import Answered, Called, Episode, Turn, Unparsed
from tool_sandbox.tasks import StopReason
from tool_sandbox.tools import CallStatus

FAILED_CONTRIBUTION = 1
"""The most that a failed call can have helped, of 5: the rubric says so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A step for the judge, and the most that it can get."""

    success: float
    contribution: float
    """On [0, 1]."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A turn that ran nothing, or a call of which something was withheld: it failed, and contributed nothing."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """An answer, which the outcome stands for, or a call that infrastructure lost."""


Standing = Asked | Fact | Nothing
_OK = Asked(1.0, 1.0)
_FAILED = Asked(0.0, FAILED_CONTRIBUTION / HIGHEST_CONTRIBUTION)
_OF_A_CALL = frozenset({Place.CALL, Place.OBSERVATION})


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks about."""

    steps: tuple[int, ...]
    """Positions, in order."""
    final: bool
    """Whether it asks for the outcome."""


def standings(episode: Episode, flags: Iterable[Flag]) -> tuple[Standing, ...]:
    """How each turn is graded.

    What a judge may not read counts as a failure: to a judge that does not see it, a withheld failure passes for a
    success, and a step that abstained would take its price out of the trajectory's sum. Either would be worth a hostile
    text.
    """
    withheld = {flag.index for flag in flags if flag.place in _OF_A_CALL}
    return tuple(_read(standing(turn), i, withheld) for i, turn in enumerate(episode.turns))


def _read(kind: Standing, position: int, withheld: Collection[int]) -> Standing:
    return Fact() if isinstance(kind, Asked) and position in withheld else kind


def standing(turn: Turn) -> Standing:
    """How one turn is graded whose texts can be read."""
    match turn:
        case Answered():
            return Nothing()
        case Unparsed():
            return Fact()
        case Called():
            if turn.lost:
                return Nothing()
            return _OK if turn.status is CallStatus.OK else _FAILED


def questions(
    episode: Episode, scope: Literal["trajectory", "step"], flags: Iterable[Flag] = ()
) -> tuple[Question, ...]:
    """The requests of one vote; none where there is nothing to ask about. `flags`: what was withheld.

    By step, the outcome is asked together with the last step, since a trajectory ends there.
    """
    steps = tuple(i for i, kind in enumerate(standings(episode, flags)) if isinstance(kind, Asked))
    final = bool(episode.turns) and episode.stop is not StopReason.INFRASTRUCTURE
    if scope == "step":
        return tuple(_by_step(steps, len(episode.turns) - 1, final))
    return (Question(steps, final),) if steps or final else ()


def _by_step(steps: tuple[int, ...], last: int, final: bool) -> Iterator[Question]:
    for step in steps:
        yield Question((step,), final and step == last)
    if final and last not in steps:
        yield Question((), True)
