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
    """A turn that ran nothing, or a call whose own words were withheld: it failed, and contributed nothing."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """An answer, which the outcome stands for, a call that infrastructure lost, or one whose result was withheld."""


Standing = Asked | Fact | Nothing
_OK = Asked(1.0, 1.0)
_FAILED = Asked(0.0, FAILED_CONTRIBUTION / HIGHEST_CONTRIBUTION)


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks about."""

    steps: tuple[int, ...]
    """Positions, in order."""
    final: bool
    """Whether it asks for the outcome."""


def standings(episode: Episode, flags: Iterable[Flag]) -> tuple[Standing, ...]:
    """How each turn is graded.

    A judge that may not read a result has no opinion of its call: a withheld failure would pass for a success. A call
    that is itself suspicious is the model's own doing.
    """
    withheld = {(flag.index, flag.place) for flag in flags}
    return tuple(_read(standing(turn), i, withheld) for i, turn in enumerate(episode.turns))


def _read(kind: Standing, position: int, withheld: Collection[tuple[int, Place]]) -> Standing:
    if isinstance(kind, Asked) and (position, Place.CALL) in withheld:
        return Fact()
    if isinstance(kind, Asked) and (position, Place.OBSERVATION) in withheld:
        return Nothing()
    return kind


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
