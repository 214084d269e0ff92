"""The names under which ledger tools are offered: plain, renamed, and as a list that gives its rows page by page.

Owns `VARIANTS`. Call graphs, facts and distances know a tool by its plain name alone; what a task offers and what a model
calls are variants. Renamed tools occur only in `TEST_TOOLS`, lists only in tasks whose fault is pagination.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tool_sandbox.ledger.names import POOLS
from tool_sandbox.ledger.tools import TOOLS, LedgerTool, Value
from tool_sandbox.tools import ToolCall, ToolSpec

LOGIN = LedgerTool(
    ToolSpec(
        "login",
        "Log in. Some tools refuse until then.",
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        family="access",
        read_only=False,
    ),
    (),
    lambda world: "logged in",
)
"""Offered only where a tool refuses without it. What it changes belongs to the session and not to the world."""

CURSOR = "cursor"
MISS = "not here"
"""How a page begins that does not hold the row."""

_RENAMED = dict(
    pair.split("=")
    for pair in """
    price=cost weight=mass stock=inventory color=tint age=years_old city=hometown balance=savings room=hall
    date=placed_on item=goods buyer=customer boss=manager account=bank_account host=organizer maker=producer
    order=last_purchase add=plus minus=subtract times=multiply sales=units_sold funds=town_total spent=expenses
    cents=to_cents grams=to_grams months=to_months weekday=day_name month=month_name length=letter_count
    reverse=backwards initial=first_letter join=hyphenate pay=settle ship=dispatch refund=repay cancel=annul
    reopen=restore note=annotate deposit=put_in withdraw=take_out thaw=unfreeze login=sign_in
    """.split()
)
"""Plain name of a tool → its name in `TEST_TOOLS`."""
_RENAMED_PARAMETERS = dict(
    pair.split("=")
    for pair in """
    item=product person=who order=reference account=iban event=occasion city=town a=x b=y dollars=usd kilos=kg
    years=duration date=day word=term text=message amount=sum cursor=after
    """.split()
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One tool under one name."""

    spec: ToolSpec
    """What the model sees."""
    tool: LedgerTool
    """What runs."""
    is_list: bool = False
    """The last parameter is a cursor, which may be left out; a call gives one page of the list."""

    @property
    def base(self) -> str:
        """Plain name of the tool."""
        return self.tool.spec.name

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the tool's own parameters, in order."""
        names = tuple(self.spec.parameters["properties"])
        return names[:-1] if self.is_list else names

    def values(self, arguments: Mapping[str, Any]) -> tuple[Value, ...]:
        """The tool's own arguments, in order, from arguments that fit the schema."""
        return tuple(_plain(arguments[name]) for name in self.parameters)

    def cursor(self, arguments: Mapping[str, Any]) -> str:
        """The cursor of a call; empty where it was left out."""
        return str(arguments.get(tuple(self.spec.parameters["properties"])[-1], "")) if self.is_list else ""

    def call(self, values: Iterable[Value], cursor: str = "") -> ToolCall:
        """A call under this name."""
        arguments: dict[str, Value] = dict(zip(self.parameters, values, strict=True))
        if cursor:
            arguments[tuple(self.spec.parameters["properties"])[-1]] = cursor
        return ToolCall("", self.spec.name, arguments)

    def tells(self, content: str) -> bool:
        """Whether a successful observation is a value: a page without the row and a login tell none."""
        return self.tool is not LOGIN and not (self.is_list and content.startswith(MISS))


def is_listable(tool: LedgerTool) -> bool:
    """Whether the tool looks up rows of one kind, which can be listed in pages."""
    return tool.spec.read_only and len(tool.domains) == 1 and tool.domains[0] in POOLS


def variant_name(base: str, *, renamed: bool, listed: bool) -> str:
    """The name under which a tool is offered."""
    name = _RENAMED[base] if renamed else base
    return f"list_{name}" if listed else name


def offered(names: Iterable[str]) -> dict[str, Variant]:
    """Plain name → variant, of those of the names that are the ledger's."""
    variants = (VARIANTS[name] for name in names if name in VARIANTS)
    return {variant.base: variant for variant in variants}


def _plain(value: Any) -> Value:
    # JSON Schema counts 12.0 as an integer; the tools must not turn it into a float.
    return int(value) if isinstance(value, float) else value


def _variants() -> Iterator[Variant]:
    for tool in (*TOOLS.values(), LOGIN):
        for renamed in (False, True):
            yield Variant(_spec(tool, renamed=renamed, listed=False), tool)
            if is_listable(tool):
                yield Variant(_spec(tool, renamed=renamed, listed=True), tool, is_list=True)


def _spec(tool: LedgerTool, *, renamed: bool, listed: bool) -> ToolSpec:
    if not renamed and not listed:
        return tool.spec
    schema = tool.spec.parameters
    properties = dict(schema["properties"])
    description = tool.spec.description
    if listed:
        properties[CURSOR] = {"type": "string", "maxLength": 8}
        description = f"{description} A page at a time; each names the cursor of the next."
    new = _RENAMED_PARAMETERS if renamed else {}
    parameters = {
        **schema,
        "properties": {new.get(name, name): value for name, value in properties.items()},
        "required": [new.get(name, name) for name in schema["required"]],
    }
    name = variant_name(tool.spec.name, renamed=renamed, listed=listed)
    return replace(tool.spec, name=name, description=description, parameters=parameters)


VARIANTS: dict[str, Variant] = {variant.spec.name: variant for variant in _variants()}
"""By the name that a task offers and a model calls."""
