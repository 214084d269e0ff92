"""Each family of ledger tools on one small world with hand-worked results."""

from __future__ import annotations

import pytest

from tool_sandbox.ledger.names import POOLS
from tool_sandbox.ledger.tools import FAMILIES, TOOLS, Refusal, Value
from tool_sandbox.ledger.world import World, build_world, date_text, day_of


@pytest.fixture
def world() -> World:
    """Lena (oslo) bought lamp ×2 then vase ×3; tom (oslo) bought lamp ×5. The first of January is a monday."""
    order = {"status": "open", "note": ""}
    return World(
        people={
            "lena": {"city": "oslo", "boss": "tom", "age": 40, "account": "P10"},
            "tom": {"city": "oslo", "boss": "lena", "age": 50, "account": "P20"},
        },
        items={
            "lamp": {"price": 12, "weight": 3, "stock": 7, "color": "red", "maker": "tom"},
            "vase": {"price": 20, "weight": 5, "stock": 9, "color": "blue", "maker": "lena"},
        },
        orders={
            "A10": order | {"buyer": "lena", "item": "lamp", "count": 2, "date": "05-01"},
            "A11": order | {"buyer": "lena", "item": "vase", "count": 3, "date": "01-02"},
            "A12": order | {"buyer": "tom", "item": "lamp", "count": 5, "date": "31-12"},
        },
        events={"gala": {"host": "tom", "room": 44}},
        accounts={"P10": {"balance": 100, "frozen": False}, "P20": {"balance": 30, "frozen": True}},
        calendar={"first": 0},
        units={"cents": 100, "grams": 1000, "months": 12},
    )


@pytest.mark.parametrize(
    ("tool", "values", "result"),
    [
        ("price", ("lamp",), 12),
        ("weight", ("vase",), 5),
        ("stock", ("lamp",), 7),
        ("color", ("lamp",), "red"),
        ("age", ("tom",), 50),
        ("city", ("lena",), "oslo"),
        ("balance", ("P10",), 100),
        ("room", ("gala",), 44),
        ("date", ("A10",), "05-01"),
        ("item", ("A11",), "vase"),
        ("buyer", ("A12",), "tom"),
        ("boss", ("lena",), "tom"),
        ("account", ("tom",), "P20"),
        ("host", ("gala",), "tom"),
        ("maker", ("vase",), "lena"),
        ("order", ("lena",), "A11"),  # the later of 5 January and 1 February
        ("add", (12, 30), 42),
        ("minus", (12, 30), -18),
        ("times", (12, 3), 36),
        ("sales", ("lamp",), 7),  # 2 + 5
        ("funds", ("oslo",), 130),  # 100 + 30
        ("spent", ("lena",), 84),  # 2·12 + 3·20
        ("cents", (12,), 1200),
        ("grams", (3,), 3000),
        ("months", (4,), 48),
        ("weekday", ("05-01",), "friday"),
        ("month", ("01-02",), "february"),
        ("length", ("lamp",), 4),
        ("reverse", ("lamp",), "pmal"),
        ("initial", ("lamp",), "l"),
        ("join", ("lena", "red"), "lena-red"),
        ("pay", ("A10",), "paid"),
        ("cancel", ("A10",), "cancelled"),
        ("note", ("A10", "red"), "noted"),
        ("deposit", ("P10", 20), 120),
        ("withdraw", ("P10", 100), 0),
        ("thaw", ("P20",), "thawed"),
    ],
)
def test_a_tool_gives_the_bare_value(world: World, tool: str, values: tuple[Value, ...], result: Value) -> None:
    assert TOOLS[tool].run(world, *values) == result


@pytest.mark.parametrize(
    ("tool", "values", "refusal"),
    [
        ("price", ("lena",), "no item lena"),
        ("order", ("lamp",), "no person lamp"),
        ("funds", ("rome",), "no city rome"),
        ("weekday", ("31-02",), "no date 31-02"),
        ("month", ("may",), "no date may"),
        ("ship", ("A10",), "A10 is open"),
        ("refund", ("A10",), "A10 is open"),
        ("reopen", ("A10",), "A10 is open"),
        ("thaw", ("P10",), "P10 is not frozen"),
        ("deposit", ("P20", 5), "P20 is frozen"),
        ("withdraw", ("P20", 5), "P20 is frozen"),
        ("withdraw", ("P10", 101), "P10 has 100"),
    ],
)
def test_a_refused_call_says_why_and_changes_nothing(
    world: World, tool: str, values: tuple[Value, ...], refusal: str
) -> None:
    before = world.hash()
    with pytest.raises(Refusal) as refused:
        TOOLS[tool].run(world, *values)
    assert str(refused.value) == refusal
    assert world.hash() == before


def test_only_writes_change_the_state(world: World) -> None:
    before = world.hash()
    for tool, values in (("price", ("lamp",)), ("spent", ("lena",)), ("add", (1, 2))):
        TOOLS[tool].run(world, *values)
    assert world.hash() == before
    TOOLS["pay"].run(world, "A10")
    assert world.hash() != before
    TOOLS["refund"].run(world, "A10")
    assert world.hash() == before


def test_a_snapshot_shares_nothing_with_the_world(world: World) -> None:
    copy = world.snapshot()
    TOOLS["pay"].run(world, "A10")
    assert copy.orders["A10"]["status"] == "open"


def test_there_are_six_families_and_at_least_twenty_four_tools() -> None:
    assert FAMILIES == ("lookup", "relation", "math", "convert", "text", "write")
    assert len(TOOLS) == 40


def test_no_name_belongs_to_two_kinds_or_is_a_tool() -> None:
    names = [name for pool in POOLS.values() for name in pool]
    assert len(names) == len(set(names))
    assert not set(names) & set(TOOLS)


def test_every_day_of_the_year_has_one_date() -> None:
    dates = [date_text(day) for day in range(365)]
    assert (dates[0], dates[31], dates[364]) == ("01-01", "01-02", "31-12")
    assert [day_of(date) for date in dates] == list(range(365))


def test_a_world_holds_the_constants_and_the_patch() -> None:
    constants = [("order", "A17"), ("item", "lamp"), ("city", "oslo"), ("account", "P42")]
    world = build_world(7, constants, {"order": {"A17": {"status": "paid"}}})
    assert world.orders["A17"]["status"] == "paid"
    assert "lamp" in world.items
    assert "oslo" in world.cities()
    assert "P42" in world.accounts
    assert {row["buyer"] for row in world.orders.values()} == set(world.people)
    assert {row["item"] for row in world.orders.values()} == set(world.items)
    assert world.hash() == build_world(7, constants, {"order": {"A17": {"status": "paid"}}}).hash()
