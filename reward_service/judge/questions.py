"""What a judge is asked about a trajectory, and which numbers nobody has to be asked about.

Owns the limits of every step: what its typed status allows. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from reward_service.judge.judgement import HIGHEST_CONTRIBUTION
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
    """A turn that ran nothing: it failed, and contributed nothing."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """An answer, which the outcome stands for, or a call that infrastructure lost."""


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


def standing(turn: Turn) -> Standing:
    """How one turn is graded."""
    match turn:
        case Answered():
            return Nothing()
        case Unparsed():
            return Fact()
        case Called():
            if turn.lost:
                return Nothing()
            return _OK if turn.status is CallStatus.OK else _FAILED


def questions(episode: Episode, scope: Literal["trajectory", "step"]) -> tuple[Question, ...]:
    """The requests of one vote; none where there is nothing to ask about.

    By step, the outcome is asked together with the last step, since a trajectory ends there.
    """
    steps = tuple(i for i, turn in enumerate(episode.turns) if isinstance(standing(turn), Asked))
    final = bool(episode.turns) and episode.stop is not StopReason.INFRASTRUCTURE
    if scope == "step":
        return tuple(_by_step(steps, len(episode.turns) - 1, final))
    return (Question(steps, final),) if steps or final else ()


def _by_step(steps: tuple[int, ...], last: int, final: bool) -> Iterator[Question]:
    for step in steps:
        yield Question((step,), final and step == last)
    if final and last not in steps:
        yield Question((), True)
