"""Goals of level L3: what a row should become, how the prompt says so, and which writes bring it about.

Consumes the grammar (which row, which value) and produces a `Draft`: a prompt, a call graph that ends in writes, and
the fields of the initial world that make the writes possible.
"""

from __future__ import annotations

from tool_sandbox.ledger.grammar import (
    WORD_KINDS,
    Dice,
    Expression,
    draw_expression,
    number_calls,
)
from tool_sandbox.ledger.plans import Constant, Draft, Plan, PlannedCall
from tool_sandbox.ledger.progress import shortest_writes
from tool_sandbox.ledger.tools import STATUS_MOVES

ALL_WRITES = frozenset({*STATUS_MOVES, "note", "deposit", "withdraw", "thaw"})
DEMANDS = {
    "shipped": ("Ship it.", "Have it shipped."),
    "paid": ("Get it paid.", "Have it paid."),
    "cancelled": ("Cancel it.", "Have it cancelled."),
    "open": ("Make it open again.", "Have it open again."),
}
"""Wanted status → wordings."""


def draw_goal(dice: Dice, calls: int, *, text: bool) -> Draft | None:
    """A random goal of exactly `calls` calls; None where the dice gave one that does not exist.

    With `text` the goal is a note whose value comes from the reserved family.
    """
    if text:
        return _note_goal(dice, calls, text=True)
    draw = dice.shape.choice((_status_goal, _status_goal, _note_goal, _money_goal, _money_goal))
    return draw(dice, calls)


def _row(dice: Dice, kind: str, reads: int) -> Expression:
    return draw_expression(dice, reads, kinds=(kind,)) if reads else Expression(dice.constant(kind))


def _capitalised(row: Expression) -> str:
    phrase = row.phrase()
    return phrase[0].upper() + phrase[1:]


def _status_goal(dice: Dice, calls: int) -> Draft | None:
    start, wanted = dice.shape.sample(sorted(DEMANDS), 2)
    writes = shortest_writes("order", (start, 0), (wanted, 0), ALL_WRITES)
    if writes is None or not writes or len(writes) > calls:
        return None
    row = _row(dice, "order", calls - len(writes))
    prompt = f"{_capitalised(row)} is {start}. {dice.shape.choice(DEMANDS[wanted])}"
    return Draft(prompt, _with_writes([row], [(tool, 1) for tool in writes]), "order", {"status": start})


def _note_goal(dice: Dice, calls: int, *, text: bool = False) -> Draft | None:
    reads = calls - 1
    for_row = dice.shape.randrange(0, reads)
    row = _row(dice, "order", for_row)
    kinds = ("text",) if text else WORD_KINDS
    value = draw_expression(dice, reads - for_row, kinds=kinds, text=text)
    verb = dice.shape.choice(("Write {0} on {1}.", "Note {0} on {1}."))
    prompt = verb.format(value.phrase(), row.phrase())
    return Draft(prompt, _with_writes([row, value], [("note", 2)]), "order", {"status": "open"})


def _money_goal(dice: Dice, calls: int) -> Draft | None:
    tool, verb = dice.shape.choice((("deposit", "Put {0} into {1}."), ("withdraw", "Take {0} from {1}.")))
    frozen = dice.shape.random() < 0.5
    reads = calls - 1 - frozen
    for_row = dice.shape.randrange(0, reads + 1) if reads > 0 else 0
    row = _row(dice, "account", for_row)
    amount = _amount(dice, reads - for_row)
    if amount is None:
        return None
    if frozen:
        prompt = f"{_capitalised(row)} is frozen. {verb.format(amount.phrase(), 'it')}"
    else:
        prompt = verb.format(amount.phrase(), row.phrase())
    writes = [("thaw", 1), (tool, 2)] if frozen else [(tool, 2)]
    return Draft(prompt, _with_writes([row, amount], writes), "account", {"frozen": frozen})


def _amount(dice: Dice, reads: int) -> Expression | None:
    if reads == 0:
        return Expression(Constant("money", dice.names.randrange(11, 100)))
    return draw_expression(dice, reads, kinds=("money",))


def _with_writes(expressions: list[Expression], writes: list[tuple[str, int]]) -> Plan:
    """The reads of the expressions, then the writes; each write takes the first so many of the expressions' values."""
    calls: list[PlannedCall] = []
    arguments = tuple(number_calls(expression, calls) for expression in expressions)
    calls.extend(PlannedCall(tool, arguments[:count]) for tool, count in writes)
    return Plan(tuple(calls))
