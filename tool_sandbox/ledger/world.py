"""The state of one ledger session: a small database, drawn from a seed.

Owns `World`: its construction, its canonical hash and its snapshots. The tools in `tools` read and write it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tool_sandbox.ledger.names import ACCOUNTS, COLORS, LONG_POOLS, MONTHS, ORDERS, POOLS, WEEKDAYS

ENTITIES = 8
"""People, items and events in a world; there are two orders more than people."""
EXTRA_ORDERS = 2

Row = dict[str, Any]


@dataclass(slots=True)
class World:
    """Tables by entity name. Mutable: the write tools change it; nobody else does."""

    people: dict[str, Row]
    items: dict[str, Row]
    orders: dict[str, Row]
    events: dict[str, Row]
    accounts: dict[str, Row]
    calendar: Row
    """`first`: index of the weekday of 01-01."""
    units: Row
    """How many small units make one large unit."""

    def tables(self) -> dict[str, dict[str, Row]]:
        """Kind of entity → its table."""
        return {
            "person": self.people,
            "item": self.items,
            "order": self.orders,
            "event": self.events,
            "account": self.accounts,
        }

    def cities(self) -> list[str]:
        return sorted({row["city"] for row in self.people.values()})

    def kind_of(self, value: object) -> str:
        """What a value is in this world: `person`, `item`, …, `city`, `number`, `date` or `word`."""
        if isinstance(value, int):
            return "number"
        text = str(value)
        for kind, table in self.tables().items():
            if text in table:
                return kind
        if text in POOLS["city"] or text in LONG_POOLS["city"]:
            return "city"
        return "date" if len(text) == 5 and text[2] == "-" else "word"

    def hash(self) -> str:
        """Sha-256 over canonical JSON: equal for equal states, in every process."""
        state = [self.people, self.items, self.orders, self.events, self.accounts, self.calendar, self.units]
        return hashlib.sha256(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def snapshot(self) -> World:
        """A deep copy that shares nothing with this world."""
        return copy.deepcopy(self)


def build_world(seed: int, constants: Sequence[tuple[str, str]], patch: Mapping[str, Mapping[str, Row]]) -> World:
    """The world of a seed that contains the entities `constants`, each a pair of kind and name.

    `patch` (kind → name → fields) overwrites fields afterwards: the initial status of an order, a frozen account.
    """
    rng = random.Random(seed)
    names = {kind: _names(rng, kind, constants) for kind in ("person", "item", "event")}
    accounts = _names(rng, "account", constants)
    orders = _names(rng, "order", constants, ENTITIES + EXTRA_ORDERS)
    world = World(
        people=_people(rng, names["person"], accounts, _names(rng, "city", constants, 4)),
        items={name: _item(rng, names["person"]) for name in names["item"]},
        orders=_orders(rng, orders, names["person"], names["item"]),
        events={name: {"host": rng.choice(names["person"]), "room": rng.randrange(10, 100)} for name in names["event"]},
        accounts={name: {"balance": rng.randrange(200, 1000), "frozen": False} for name in accounts},
        calendar={"first": rng.randrange(len(WEEKDAYS))},
        units={"cents": 100, "grams": 1000, "months": 12},
    )
    for kind, rows in patch.items():
        for name, fields in rows.items():
            world.tables()[kind][name].update(fields)
    return world


def _names(rng: random.Random, kind: str, constants: Sequence[tuple[str, str]], count: int = ENTITIES) -> list[str]:
    wanted = [name for constant_kind, name in dict.fromkeys(constants) if constant_kind == kind]
    pool = {"order": ORDERS, "account": ACCOUNTS}.get(kind) or POOLS[kind]
    # A few spare names, because the sample may contain some of the wanted ones.
    spare = [name for name in rng.sample(pool, count + len(wanted)) if name not in wanted]
    names = (wanted + spare)[: max(count, len(wanted))]
    rng.shuffle(names)
    return names


def _people(rng: random.Random, names: list[str], accounts: list[str], cities: list[str]) -> dict[str, Row]:
    homes = cities + [rng.choice(cities) for _ in range(len(names) - len(cities))]
    people: dict[str, Row] = {}
    for index, name in enumerate(names):
        boss = rng.choice([other for other in names if other != name])
        age = rng.randrange(20, 80)
        people[name] = {"city": homes[index], "boss": boss, "age": age, "account": accounts[index]}
    return people


def _item(rng: random.Random, people: list[str]) -> Row:
    return {
        "price": rng.randrange(11, 100),
        "weight": rng.randrange(11, 100),
        "stock": rng.randrange(11, 100),
        "color": rng.choice(COLORS),
        "maker": rng.choice(people),
    }


def _orders(rng: random.Random, names: list[str], people: list[str], items: list[str]) -> dict[str, Row]:
    # Every person buys and every item is sold at least once, so that `order`, `sales` and `spent` always have a row.
    buyers = people + [rng.choice(people) for _ in range(len(names) - len(people))]
    goods = items + [rng.choice(items) for _ in range(len(names) - len(items))]
    rng.shuffle(goods)
    days = rng.sample(range(365), len(names))
    orders: dict[str, Row] = {}
    for name, buyer, item, day in zip(names, buyers, goods, days, strict=True):
        row = {"buyer": buyer, "item": item, "count": rng.randrange(2, 20), "date": date_text(day)}
        orders[name] = row | {"status": "open", "note": ""}
    return orders


def date_text(day: int) -> str:
    """The date of a day of the year counted from 0, as `dd-mm`."""
    for month, (_, length) in enumerate(MONTHS, start=1):
        if day < length:
            return f"{day + 1:02d}-{month:02d}"
        day -= length
    raise ValueError(f"day {day} lies beyond the year; days count from 0 to 364")


def day_of(date: str) -> int:
    """The day of the year of a date `dd-mm`, counted from 0. Raises `ValueError` for anything else."""
    day, month = (int(part) for part in date.split("-"))
    if not (1 <= month <= len(MONTHS) and 1 <= day <= MONTHS[month - 1][1]):
        raise ValueError(f"date {date!r} is not in the calendar; expected dd-mm")
    return sum(length for _, length in MONTHS[: month - 1]) + day - 1
