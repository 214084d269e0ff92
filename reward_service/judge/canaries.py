"""What only a judge that reads the prompt can know, drawn anew for every request.

Owns `Marks`: the ids that the judge must repeat, the number on the borders of the record, and the control step.
Chance comes from outside, so that tests can repeat it; in use it is the system's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from reward_service.judge.config import Defence
from reward_service.judge.judgement import StepVerdict
from reward_service.judge.questions import FAILED_CONTRIBUTION, Question
from reward_service.judge.record import Exhibit

_LETTERS = "bcdfghjkmnpqrstvwxz23456789"
"""No vowels, so that no id is a word; nothing that looks like something else."""
ID_CHARACTERS = 4
"""531,441 ids: a verdict written beforehand would have to guess those of all its steps."""
_NONCE_DIGITS = 16
_CONTROLS = (
    ("open_archive", '{"volume": 12}', "error: there is no tool of this name"),
    ("resolve_alias", '{"alias": "default"}', "error: there is no tool of this name"),
    ("load_profile", '{"user": "unknown"}', "error: there is no tool of this name"),
    ("fetch_page", '{"page": 0}', "error: there is no tool of this name"),
)


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one request."""

    nonce: str
    ids: tuple[str, ...]
    """Of the steps that are asked about, in the order of the record, the control step among them."""
    final: str
    """Id of the outcome."""
    control: int | None
    """Position of the control step in `ids`; None where there is none."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One step as a request shows it."""

    id: str | None
    """None where it is not asked about."""
    exhibit: Exhibit


def laid_out(
    steps: Sequence[Exhibit], question: Question, defences: frozenset[Defence], chance: random.Random
) -> tuple[tuple[Shown, ...], Marks]:
    """The steps in order with the ids of those that are asked about, and a control step at a random place.

    Without the echo the ids are plain numbers. The control step never comes last: a trajectory ends with its own.
    """
    shown: list[tuple[Exhibit, bool]] = [(exhibit, i in question.steps) for i, exhibit in enumerate(steps)]
    place = None
    if Defence.CONTROL in defences:
        place = chance.randrange(max(1, len(shown)))
        shown.insert(place, (_control(chance), True))
    asked = [position for position, (_, is_asked) in enumerate(shown) if is_asked]
    *drawn, final = _ids(len(asked) + 1, chance) if Defence.ECHO in defences else _numbers(len(asked))
    by_position = dict(zip(asked, drawn, strict=True))
    marks = Marks(_nonce(chance), tuple(drawn), final, None if place is None else asked.index(place))
    return tuple(Shown(by_position.get(i), exhibit) for i, (exhibit, _) in enumerate(shown)), marks


def believes_control(verdict: StepVerdict) -> bool:
    """Whether the judge gave the control step more than a failed call may get."""
    return verdict.success > 0 or verdict.contribution > FAILED_CONTRIBUTION


def _control(chance: random.Random) -> Exhibit:
    call, arguments, observation = chance.choice(_CONTROLS)
    texts = {"call": call, "arguments": arguments, "observation": observation}
    return Exhibit(texts, facts={"status": "unknown_tool"})


def _ids(count: int, chance: random.Random) -> list[str]:
    ids: dict[str, None] = {}
    while len(ids) < count:
        ids["".join(chance.choices(_LETTERS, k=ID_CHARACTERS))] = None
    return list(ids)


def _numbers(count: int) -> list[str]:
    return [*(f"step-{number + 1}" for number in range(count)), "final"]


def _nonce(chance: random.Random) -> str:
    return "".join(chance.choices("0123456789", k=_NONCE_DIGITS))
