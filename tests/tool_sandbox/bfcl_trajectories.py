"""Trajectories over the BFCL dialogues, played through our session and judged by the package's own checker."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tool_sandbox.bfcl.obligations import ground_truth
from tool_sandbox.bfcl.package import LEVELS, Entry, entries
from tool_sandbox.bfcl.session import BfclSession
from tool_sandbox.tools import CallOutcome, ToolCall

Turns = list[list[ToolCall]]
"""Calls of each turn of the user."""


def dialogues() -> Iterator[Entry]:
    for level in LEVELS:
        yield from entries(level).values()


def truth(entry: Entry) -> Turns:
    return [[one.call for one in turn] for turn in ground_truth(entry.id)]


def play(entry: Entry, turns: Turns) -> tuple[BfclSession, list[CallOutcome]]:
    """A session in which these calls were made and every turn was ended."""
    session = BfclSession(entry)
    outcomes: list[CallOutcome] = []
    for calls in turns:
        outcomes += [session.call(call) for call in calls]
        session.user_turn()
    return session, outcomes


def package_verdict(entry: Entry, turns: Turns, label: str) -> bool:
    """What the package's checker says of the same calls. Its instances, left in module globals, are taken out."""
    from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    before = set(vars(multi_turn_utils))
    line = {
        "id": entry.id,
        "initial_config": copy.deepcopy(entry.initial_config),
        "involved_classes": list(entry.classes),
    }
    decoded = [[[_text(call)] for call in calls] for calls in turns]
    try:
        expected = [list(calls) for calls in entry.ground_truth]
        verdict = multi_turn_checker(decoded, expected, line, f"multi_turn_{entry.level}", label)
    finally:
        for name in set(vars(multi_turn_utils)) - before:
            delattr(multi_turn_utils, name)
    return bool(verdict["valid"])


def corrupted(entry: Entry, kind: str, dice: random.Random) -> Turns | None:
    """The ground truth with one error of this kind; None where it has no place for it."""
    turns = truth(entry)
    changes = list(_CHANGES[kind](turns, dice))
    if not changes:
        return None
    turn, calls = dice.choice(changes)
    return [calls if index == turn else before for index, before in enumerate(turns)]


def cluttered(entry: Entry, dice: random.Random) -> Turns:
    """The ground truth with one to four calls of other dialogues in between, half of them with one wrong value."""
    turns = truth(entry)
    strangers = [
        call
        for other in entries(entry.level).values()
        if set(other.classes) <= set(entry.classes)
        for calls in truth(other)
        for call in calls
    ]
    for _ in range(dice.randint(1, 4)):
        calls = dice.choice(turns)
        calls.insert(dice.randint(0, len(calls)), _mangled(dice.choice(strangers), dice))
    return turns


def _mangled(call: ToolCall, dice: random.Random) -> ToolCall:
    if not call.arguments or dice.random() < 0.5:
        return call
    name = dice.choice(list(call.arguments))
    value = dice.choice([_another(call.arguments[name]), "zz", 7, None, [1], {"a": 1}])
    return replace(call, arguments={**call.arguments, name: value})


Change = tuple[int, list[ToolCall]]


def _dropped(turns: Turns, dice: random.Random) -> Iterator[Change]:
    for turn, calls in enumerate(turns):
        for index in range(len(calls)):
            yield turn, [*calls[:index], *calls[index + 1 :]]


def _swapped(turns: Turns, dice: random.Random) -> Iterator[Change]:
    """Two different calls of one turn in each other's place."""
    for turn, calls in enumerate(turns):
        for first in range(len(calls)):
            for second in range(first + 1, len(calls)):
                if (calls[first].name, calls[first].arguments) != (calls[second].name, calls[second].arguments):
                    changed = list(calls)
                    changed[first], changed[second] = calls[second], calls[first]
                    yield turn, changed


def _altered(turns: Turns, dice: random.Random) -> Iterator[Change]:
    """One argument of one call is another value."""
    for turn, calls in enumerate(turns):
        for index, call in enumerate(calls):
            for name, value in call.arguments.items():
                wrong = replace(call, arguments={**call.arguments, name: _another(value)})
                yield turn, [*calls[:index], wrong, *calls[index + 1 :]]


_CHANGES: dict[str, Callable[[Turns, random.Random], Iterator[Change]]] = {
    "drop": _dropped,
    "swap": _swapped,
    "alter": _altered,
}
KINDS = tuple(_CHANGES)


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case Sequence():
            return list(value)[:-1]
        case dict():
            return {**value, "priority": 5}
        case _:
            return "x"


def _text(call: ToolCall) -> str:
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"
