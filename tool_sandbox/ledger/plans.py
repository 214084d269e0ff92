"""Call graphs: which calls solve a task, and what feeds what.

Owns `Plan` and its JSON form. A plan holds names only; `evaluate` runs it in a world and gives concrete facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tool_sandbox.ledger.tools import TOOLS, Value
from tool_sandbox.ledger.world import World


@dataclass(frozen=True, slots=True)
class Constant:
    """An argument that stands in the prompt."""

    kind: str
    value: Value


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is the result of an earlier call, by its index in the plan."""

    index: int


Argument = Constant | Ref


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One node of the call graph."""

    tool: str
    arguments: tuple[Argument, ...]
    """In the order of the tool's parameters."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Calls in an order in which every argument is known; no call occurs twice."""

    calls: tuple[PlannedCall, ...]

    @property
    def tools(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(call.tool for call in self.calls))

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Every constant, once, in order of use."""
        found = (argument for call in self.calls for argument in call.arguments if isinstance(argument, Constant))
        return tuple(dict.fromkeys(found))

    @property
    def names(self) -> list[tuple[str, str]]:
        """Kind and name of every constant: what a world around this plan must contain."""
        return [(constant.kind, str(constant.value)) for constant in self.constants]

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Adjacent tools: (the tool that uses a result, the tool that gave it)."""
        return frozenset(
            (call.tool, self.calls[argument.index].tool)
            for call in self.calls
            for argument in call.arguments
            if isinstance(argument, Ref)
        )

    def signature(self) -> str:
        """The graph with its tools and constants on one line: `price(item(A17))`, calls nobody uses joined by `;`."""
        texts: list[str] = []
        for call in self.calls:
            arguments = (str(a.value) if isinstance(a, Constant) else texts[a.index] for a in call.arguments)
            texts.append(f"{call.tool}({','.join(arguments)})")
        used = {argument.index for call in self.calls for argument in call.arguments if isinstance(argument, Ref)}
        return ";".join(text for index, text in enumerate(texts) if index not in used)

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "tool": call.tool,
                "arguments": [
                    {"kind": a.kind, "value": a.value} if isinstance(a, Constant) else {"ref": a.index}
                    for a in call.arguments
                ],
            }
            for call in self.calls
        ]

    @staticmethod
    def from_json(rows: Iterable[Mapping[str, Any]]) -> Plan:
        return Plan(tuple(PlannedCall(row["tool"], tuple(map(_argument, row["arguments"]))) for row in rows))


@dataclass(frozen=True, slots=True)
class Draft:
    """A call graph with its prompt, before a world is drawn around it."""

    prompt: str
    plan: Plan
    kind: str = ""
    """Kind of the row that a goal changes; empty for a question."""
    initial: Mapping[str, str | bool] = field(default_factory=dict)
    """Fields of that row at the start."""


def _argument(row: Mapping[str, Any]) -> Argument:
    return Ref(row["ref"]) if "ref" in row else Constant(row["kind"], row["value"])


@dataclass(frozen=True, slots=True)
class Fact:
    """A concrete call: a tool and the values it was called with. Equal for calls that must give equal results."""

    tool: str
    values: tuple[Value, ...]

    @staticmethod
    def of(tool: str, values: Iterable[Value]) -> Fact:
        # The order of a commutative tool's arguments does not matter, so it must not make two facts.
        ordered = tuple(values)
        return Fact(tool, tuple(sorted(ordered, key=str)) if TOOLS[tool].commutative else ordered)


@dataclass(frozen=True, slots=True)
class EvaluatedCall:
    """A planned call with the values that it takes and gives in one world."""

    tool: str
    values: tuple[Value, ...]
    """Arguments in the order of the parameters."""
    needs: tuple[int, ...]
    """Indices of the calls whose results it uses."""
    result: Value

    @property
    def fact(self) -> Fact:
        return Fact.of(self.tool, self.values)


def evaluate(plan: Plan, world: World) -> tuple[EvaluatedCall, ...]:
    """Run the plan in order; writes change `world`. Raises `Refusal` where a tool refuses."""
    done: list[EvaluatedCall] = []
    for call in plan.calls:
        values = tuple(a.value if isinstance(a, Constant) else done[a.index].result for a in call.arguments)
        needs = tuple(a.index for a in call.arguments if isinstance(a, Ref))
        done.append(EvaluatedCall(call.tool, values, needs, TOOLS[call.tool].run(world, *values)))
    return tuple(done)
