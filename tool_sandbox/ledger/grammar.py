"""How calls combine into questions: which results fit which arguments, and how a graph reads in English.

Owns the productions and the noun phrases. Deals in kinds (`item`, `money`, …), finer than the domains of `tools`: a sum
of dollars and kilos would be a legal call and a silly question.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tool_sandbox.ledger.plans import Argument, Constant, Plan, PlannedCall, Ref
from tool_sandbox.ledger.tools import RESERVED_FAMILY, family_of

ENTITY_KINDS = ("person", "item", "order", "event", "city")
"""Kinds that a question may name."""
WORD_KINDS = ("person", "item", "city", "color")
FACTORS = range(2, 10)


@dataclass(frozen=True, slots=True)
class Production:
    """A tool applied to kinds gives a kind, and reads as a phrase."""

    tool: str
    takes: tuple[str, ...]
    gives: str
    phrase: str
    """Format string over the phrases of the arguments, in order."""


def _unary(gives: str, takes: str, *tools: str) -> tuple[Production, ...]:
    return tuple(Production(tool, (takes,), gives, f"the {tool} of {{0}}") for tool in tools)


def _numeric(kind: str) -> tuple[Production, ...]:
    return (
        Production("add", (kind, kind), kind, "{0} plus {1}"),
        Production("minus", (kind, kind), kind, "{0} minus {1}"),
        Production("times", (kind, "factor"), kind, "{1} times {0}"),
    )


def _textual(kind: str) -> tuple[Production, ...]:
    return (
        Production("length", (kind,), "letters", "the length of {0}"),
        Production("reverse", (kind,), "text", "the reverse of {0}"),
        Production("initial", (kind,), "text", "the initial of {0}"),
        *(Production("join", (kind, other), "text", "{0} joined with {1}") for other in WORD_KINDS if other != kind),
    )


PRODUCTIONS: tuple[Production, ...] = (
    *_unary("money", "item", "price"),
    *_unary("kilos", "item", "weight"),
    *_unary("pieces", "item", "stock", "sales"),
    *_unary("color", "item", "color"),
    *_unary("years", "person", "age"),
    *_unary("city", "person", "city"),
    *_unary("money", "account", "balance"),
    *_unary("money", "city", "funds"),
    *_unary("room", "event", "room"),
    *_unary("date", "order", "date"),
    *_unary("person", "order", "buyer"),
    *_unary("person", "person", "boss"),
    *_unary("person", "event", "host"),
    *_unary("person", "item", "maker"),
    *_unary("account", "person", "account"),
    *_unary("order", "person", "order"),
    *_unary("weekday", "date", "weekday"),
    *_unary("month", "date", "month"),
    Production("item", ("order",), "item", "the item in {0}"),
    Production("spent", ("person",), "money", "the money spent by {0}"),
    Production("cents", ("money",), "cents", "{0} in cents"),
    Production("grams", ("kilos",), "grams", "{0} in grams"),
    Production("months", ("years",), "months", "{0} in months"),
    *(production for kind in ("money", "kilos", "pieces", "years") for production in _numeric(kind)),
    *(production for kind in WORD_KINDS for production in _textual(kind)),
)

QUESTIONS = ("What is {0}?", "Find {0}.", "Tell me {0}.", "Give me {0}.")
PERSON_QUESTIONS = ("Who is {0}?", "Find {0}.", "Tell me {0}.", "Give me {0}.")


def constant_phrase(constant: Constant) -> str:
    """How a prompt names an entity: `the lamp`, `order A17`, `lena`, `3`."""
    if constant.kind in ("item", "event"):
        return f"the {constant.value}"
    if constant.kind in ("order", "account"):
        return f"{constant.kind} {constant.value}"
    return str(constant.value)


@dataclass(frozen=True, slots=True)
class Dice:
    """Two sources of chance: one decides graph and wording, the other which names stand in it.

    Apart, so that the names can be drawn again for the same graph: the splits differ in names alone.
    """

    shape: random.Random
    names: random.Random
    pools: Mapping[str, tuple[str, ...]]
    """Names by kind: `POOLS` or `LONG_POOLS`."""

    def constant(self, kind: str) -> Constant:
        return Constant(kind, self.names.choice(FACTORS if kind == "factor" else self.pools[kind]))


@dataclass(frozen=True, slots=True)
class Expression:
    """A tree of productions over constants: a question before its calls are numbered."""

    head: Production | Constant
    arguments: tuple[Expression, ...] = ()

    @property
    def kind(self) -> str:
        return self.head.kind if isinstance(self.head, Constant) else self.head.gives

    def phrase(self) -> str:
        if isinstance(self.head, Constant):
            return constant_phrase(self.head)
        return self.head.phrase.format(*(argument.phrase() for argument in self.arguments))


def question(expression: Expression, rng: random.Random) -> str:
    """The expression as a question, in one of several wordings."""
    forms = PERSON_QUESTIONS if expression.kind == "person" else QUESTIONS
    return rng.choice(forms).format(expression.phrase())


def number_calls(expression: Expression, calls: list[PlannedCall]) -> Argument:
    """Append the calls of an expression to `calls`, each once, and say where its value comes from."""
    if isinstance(expression.head, Constant):
        return expression.head
    arguments = tuple(number_calls(argument, calls) for argument in expression.arguments)
    call = PlannedCall(expression.head.tool, arguments)
    if call not in calls:
        calls.append(call)
    return Ref(calls.index(call))


def plan_of(expression: Expression) -> Plan:
    """The call graph of an expression; equal branches become one call."""
    calls: list[PlannedCall] = []
    number_calls(expression, calls)
    return Plan(tuple(calls))


def draw_expression(dice: Dice, calls: int, *, kinds: tuple[str, ...] | None = None, text: bool = False) -> Expression:
    """A random expression of exactly `calls` calls (as a tree) whose value has one of `kinds`; None means any kind.

    Tools are drawn first and evenly, then what they apply to, so that tools with many typings are not favoured. With
    `text` the root is a tool of the reserved family; without, that family does not occur.
    """
    roots = _productions(text) if kinds is None else tuple(p for p in _productions(text) if p.gives in kinds)
    return _grow(dice, roots, calls)


def _grow(dice: Dice, choices: tuple[Production, ...], calls: int) -> Expression:
    feasible = [p for p in choices if _splits(p.takes, calls - 1)]
    tool = dice.shape.choice(sorted({p.tool for p in feasible}))
    production = dice.shape.choice([p for p in feasible if p.tool == tool])
    budgets = dice.shape.choice(_splits(production.takes, calls - 1))
    pairs = zip(production.takes, budgets, strict=True)
    return Expression(production, tuple(_argument(dice, kind, budget) for kind, budget in pairs))


def _argument(dice: Dice, kind: str, calls: int) -> Expression:
    if calls == 0:
        return Expression(dice.constant(kind))
    return _grow(dice, tuple(p for p in _productions(False) if p.gives == kind), calls)


@cache
def _productions(text: bool) -> tuple[Production, ...]:
    return tuple(p for p in PRODUCTIONS if (family_of(p.tool) == RESERVED_FAMILY) is text)


@cache
def _splits(takes: tuple[str, ...], calls: int) -> tuple[tuple[int, ...], ...]:
    """Every way to spend exactly `calls` calls on arguments of these kinds."""
    if len(takes) == 1:
        return ((calls,),) if _reachable(takes[0], calls) else ()
    first, rest = takes[0], takes[1:]
    options = (spent for spent in range(calls + 1) if _reachable(first, spent))
    return tuple((spent, *others) for spent in options for others in _splits(rest, calls - spent))


@cache
def _reachable(kind: str, calls: int) -> bool:
    """Whether some expression of that kind takes exactly `calls` calls."""
    if calls == 0:
        return kind in ENTITY_KINDS or kind == "factor"
    return any(p.gives == kind and bool(_splits(p.takes, calls - 1)) for p in _productions(False))
