"""The tools of ledger world: six families of short, deterministic functions over a `World`.

Owns the tool table. A tool that refuses raises `Refusal`, whose text becomes the model's observation. Each parameter
has a domain (`item`, `number`, `word`, …), which the samplers, the search and the policies use to find fitting values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tool_sandbox.ledger.names import MONTHS, WEEKDAYS
from tool_sandbox.ledger.world import World, day_of
from tool_sandbox.tools import ToolSpec

Value = str | int
NOTE_CHARACTERS = 24


class Refusal(Exception):
    """The tool ran and said no; the text is the observation."""


@dataclass(frozen=True, slots=True)
class LedgerTool:
    """One tool: what the model sees, and what it does."""

    spec: ToolSpec
    domains: tuple[str, ...]
    """Domain of each parameter, in the order of the schema."""
    run: Callable[..., Value]
    """`run(world, *arguments)`; writes change the world in place."""
    commutative: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.spec.parameters["properties"])


STATUS_MOVES: dict[str, tuple[str, str]] = {
    "pay": ("open", "paid"),
    "ship": ("paid", "shipped"),
    "refund": ("paid", "open"),
    "cancel": ("open", "cancelled"),
    "reopen": ("cancelled", "open"),
}
"""Write tool → status that an order must have, status that it gets. Nothing leads out of `shipped`."""

NOTABLE = ("open", "paid")
"""Statuses of an order that may be written on."""


def _row(table: Mapping[str, Any], kind: str, name: str) -> Any:
    if name not in table:
        raise Refusal(f"no {kind} {name}")
    return table[name]


def _field(kind: str, column: str) -> Callable[[World, str], Value]:
    return lambda world, name: _row(world.tables()[kind], kind, name)[column]


def _order_of(world: World, person: str) -> str:
    _row(world.people, "person", person)
    mine = [name for name, row in world.orders.items() if row["buyer"] == person]
    return max(mine, key=lambda name: day_of(world.orders[name]["date"]))


def _sales(world: World, item: str) -> int:
    _row(world.items, "item", item)
    return sum(row["count"] for row in world.orders.values() if row["item"] == item)


def _funds(world: World, city: str) -> int:
    owners = [row for row in world.people.values() if row["city"] == city]
    if not owners:
        raise Refusal(f"no city {city}")
    return sum(world.accounts[row["account"]]["balance"] for row in owners)


def _spent(world: World, person: str) -> int:
    _row(world.people, "person", person)
    mine = [row for row in world.orders.values() if row["buyer"] == person]
    return sum(row["count"] * world.items[row["item"]]["price"] for row in mine)


def _day(date: str) -> int:
    try:
        return day_of(date)
    except ValueError as error:
        raise Refusal(f"no date {date}") from error


def _weekday(world: World, date: str) -> str:
    return WEEKDAYS[(world.calendar["first"] + _day(date)) % len(WEEKDAYS)]


def _month(world: World, date: str) -> str:
    _day(date)
    return MONTHS[int(date.split("-")[1]) - 1][0]


def _move_status(tool: str) -> Callable[[World, str], Value]:
    required, given = STATUS_MOVES[tool]

    def move(world: World, order: str) -> Value:
        row = _row(world.orders, "order", order)
        if row["status"] != required:
            raise Refusal(f"{order} is {row['status']}")
        row["status"] = given
        return given

    return move


def _note(world: World, order: str, text: str) -> Value:
    row = _row(world.orders, "order", order)
    if row["status"] not in NOTABLE:
        raise Refusal(f"{order} is {row['status']}")
    row["note"] = text
    return "noted"


def _deposit(world: World, account: str, amount: int) -> Value:
    row = _row(world.accounts, "account", account)
    if row["frozen"]:
        raise Refusal(f"{account} is frozen")
    row["balance"] += amount
    return row["balance"]


def _withdraw(world: World, account: str, amount: int) -> Value:
    row = _row(world.accounts, "account", account)
    if row["frozen"]:
        raise Refusal(f"{account} is frozen")
    if row["balance"] < amount:
        raise Refusal(f"{account} has {row['balance']}")
    row["balance"] -= amount
    return row["balance"]


def _thaw(world: World, account: str) -> Value:
    row = _row(world.accounts, "account", account)
    if not row["frozen"]:
        raise Refusal(f"{account} is not frozen")
    row["frozen"] = False
    return "thawed"


_SCHEMAS: dict[str, dict[str, Any]] = {
    "number": {"type": "integer", "minimum": -1_000_000_000, "maximum": 1_000_000_000},
    "amount": {"type": "integer", "minimum": 1, "maximum": 1_000_000_000},
    "note": {"type": "string", "maxLength": NOTE_CHARACTERS},
}
_NAME_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 40}


def _tool(
    family: str,
    name: str,
    parameters: Mapping[str, str],
    run: Callable[..., Value],
    description: str,
    *,
    commutative: bool = False,
) -> LedgerTool:
    """A tool from its parameters, each a name and a domain."""
    schema = {
        "type": "object",
        "properties": {name: _SCHEMAS.get(domain, _NAME_SCHEMA) for name, domain in parameters.items()},
        "required": list(parameters),
        "additionalProperties": False,
    }
    spec = ToolSpec(name, description, schema, family=family, read_only=family != "write")
    return LedgerTool(spec, tuple(parameters.values()), run, commutative)


def _numbers(a: str = "a", b: str = "b") -> dict[str, str]:
    return {a: "number", b: "number"}


_TABLE = (
    _tool("lookup", "price", {"item": "item"}, _field("item", "price"), "Price of an item in dollars."),
    _tool("lookup", "weight", {"item": "item"}, _field("item", "weight"), "Weight of an item in kilos."),
    _tool("lookup", "stock", {"item": "item"}, _field("item", "stock"), "Pieces of an item in stock."),
    _tool("lookup", "color", {"item": "item"}, _field("item", "color"), "Color of an item."),
    _tool("lookup", "age", {"person": "person"}, _field("person", "age"), "Age of a person in years."),
    _tool("lookup", "city", {"person": "person"}, _field("person", "city"), "City of a person."),
    _tool("lookup", "balance", {"account": "account"}, _field("account", "balance"), "Balance of an account."),
    _tool("lookup", "room", {"event": "event"}, _field("event", "room"), "Room of an event."),
    _tool("lookup", "date", {"order": "order"}, _field("order", "date"), "Date of an order."),
    _tool("relation", "item", {"order": "order"}, _field("order", "item"), "Item in an order."),
    _tool("relation", "buyer", {"order": "order"}, _field("order", "buyer"), "Buyer of an order."),
    _tool("relation", "boss", {"person": "person"}, _field("person", "boss"), "Boss of a person."),
    _tool("relation", "account", {"person": "person"}, _field("person", "account"), "Account of a person."),
    _tool("relation", "host", {"event": "event"}, _field("event", "host"), "Host of an event."),
    _tool("relation", "maker", {"item": "item"}, _field("item", "maker"), "Maker of an item."),
    _tool("relation", "order", {"person": "person"}, _order_of, "Latest order of a person."),
    _tool("math", "add", _numbers(), lambda _, a, b: a + b, "Sum of two numbers.", commutative=True),
    _tool("math", "minus", _numbers(), lambda _, a, b: a - b, "First number minus the second."),
    _tool("math", "times", _numbers(), lambda _, a, b: a * b, "Product of two numbers.", commutative=True),
    _tool("math", "sales", {"item": "item"}, _sales, "Pieces of an item sold."),
    _tool("math", "funds", {"city": "city"}, _funds, "All balances of a city together."),
    _tool("math", "spent", {"person": "person"}, _spent, "Money that a person spent."),
    _tool("convert", "cents", {"dollars": "number"}, lambda world, n: n * world.units["cents"], "Dollars to cents."),
    _tool("convert", "grams", {"kilos": "number"}, lambda world, n: n * world.units["grams"], "Kilos to grams."),
    _tool("convert", "months", {"years": "number"}, lambda world, n: n * world.units["months"], "Years to months."),
    _tool("convert", "weekday", {"date": "date"}, _weekday, "Weekday of a date."),
    _tool("convert", "month", {"date": "date"}, _month, "Month of a date."),
    _tool("text", "length", {"word": "word"}, lambda _, word: len(word), "Number of letters of a word."),
    _tool("text", "reverse", {"word": "word"}, lambda _, word: word[::-1], "A word read backwards."),
    _tool("text", "initial", {"word": "word"}, lambda _, word: word[0], "First letter of a word."),
    _tool("text", "join", {"a": "word", "b": "word"}, lambda _, a, b: f"{a}-{b}", "Two words joined by a hyphen."),
    _tool("write", "pay", {"order": "order"}, _move_status("pay"), "Pay an open order."),
    _tool("write", "ship", {"order": "order"}, _move_status("ship"), "Ship a paid order."),
    _tool("write", "refund", {"order": "order"}, _move_status("refund"), "Refund a paid order."),
    _tool("write", "cancel", {"order": "order"}, _move_status("cancel"), "Cancel an open order."),
    _tool("write", "reopen", {"order": "order"}, _move_status("reopen"), "Reopen a cancelled order."),
    _tool("write", "note", {"order": "order", "text": "note"}, _note, "Write a note on an order."),
    _tool("write", "deposit", {"account": "account", "amount": "amount"}, _deposit, "Put money into an account."),
    _tool("write", "withdraw", {"account": "account", "amount": "amount"}, _withdraw, "Take money out of an account."),
    _tool("write", "thaw", {"account": "account"}, _thaw, "Thaw a frozen account."),
)

TOOLS: dict[str, LedgerTool] = {tool.spec.name: tool for tool in _TABLE}
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(tool.spec.family for tool in _TABLE))
RESERVED_FAMILY = "text"
"""Seen only in `TEST_TOOLS`."""


def family_of(tool: str) -> str:
    """Family of a ledger tool."""
    return TOOLS[tool].spec.family


def accepts(domain: str, kind: str) -> bool:
    """Whether a parameter of this domain may take a value of this kind (see `World.kind_of`)."""
    if domain in ("number", "amount"):
        return kind == "number"
    if domain in ("word", "note"):
        return kind != "number"
    return domain == kind
