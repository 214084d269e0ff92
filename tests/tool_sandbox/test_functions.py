"""`@tool`: what hints and docstring become, how calls are checked, and what comes back."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

from tool_sandbox.errors import InvalidTool
from tool_sandbox.functions import FunctionTool, SessionState, tool
from tool_sandbox.rendering import CUT_MARKER, canonical_json, digest
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, Trust


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@dataclass
class Place:
    city: str
    country: str = "NO"


@dataclass
class Alarms(SessionState):
    hours: list[int]


@dataclass
class Tree:
    branch: Tree | None = None


@tool
def give_deep() -> Any:
    """Give back something deep."""
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"branch": deep}
    return deep


class Handle:
    """Something that JSON cannot express."""


@tool(family="weather")
def forecast(place: Place, day: datetime.date, unit: Unit = Unit.CELSIUS) -> str:
    """Forecast for a place.

    Rounded to whole degrees.

    Args:
        place: where
        day: which day
        unit: of the temperature

    Returns:
        one line
    """
    return f"{place.city} {place.country} {day.isoformat()} {unit.name}"


@tool
def area(width: Annotated[float, Field(gt=0)], copy: int = 1) -> float:
    """Area of copies of a square-edged field.

    Parameters
    ----------
    width : float
        Of one side.
    copy : int
        How many of them.
    """
    return width * width * copy


@tool(read_only=False)
def ring(alarms: Alarms, hour: int) -> int:
    """Set an alarm."""
    alarms.hours.append(hour)
    return len(alarms.hours)


@tool
def fail(kind: Literal["value", "key"]) -> None:
    """Raise an error."""
    raise ValueError("no luck") if kind == "value" else KeyError("gone")


@tool
def give(what: str) -> Any:
    """Give something back."""
    values: dict[str, Any] = {
        "nothing": None,
        "nested": {"b": {3, 1, 2}, "a": (Decimal("1.50"), datetime.date(2026, 1, 2)), 7: Place("Oslo")},
        "text": 'plain "text"',
        "long": "x" * 25,
        "handle": Handle(),
    }
    return values[what]


def run(made: FunctionTool, state: SessionState | None = None, characters: int = 100, **arguments: Any) -> ToolResult:
    return made.run(ToolCall("c", made.spec.name, arguments), state, characters)


def test_hints_and_a_google_docstring_become_a_schema() -> None:
    spec = forecast.spec
    assert (spec.name, spec.family, spec.trust, spec.read_only) == ("forecast", "weather", Trust.IN_PROCESS, True)
    assert spec.description == "Forecast for a place.\nRounded to whole degrees."
    properties = spec.parameters["properties"]
    assert list(properties) == ["place", "day", "unit"]
    assert properties["day"] == {"type": "string", "format": "date", "description": "which day"}
    assert properties["unit"]["default"] == "C"
    assert spec.parameters["required"] == ["place", "day"]
    assert spec.parameters["additionalProperties"] is False
    assert "title" not in spec.parameters
    Draft202012Validator.check_schema(spec.parameters)


def test_a_numpy_docstring_and_a_parameter_called_like_a_method_of_pydantic_are_fine() -> None:
    assert area.spec.description == "Area of copies of a square-edged field."
    assert area.spec.parameters["properties"] == {
        "width": {"type": "number", "exclusiveMinimum": 0, "description": "Of one side."},
        "copy": {"type": "integer", "default": 1, "description": "How many of them."},
    }
    assert run(area, width=3, copy=2).content == "18.0"
    assert area(2.0) == 4.0


def test_a_function_without_parameters_has_an_empty_schema() -> None:
    @tool
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert now.spec.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert run(now).content == "noon"
    assert run(now, zone="UTC").content == "error: now has no zone"


def test_arguments_become_the_types_of_the_hints() -> None:
    result = run(forecast, place={"city": "Oslo"}, day="2026-11-22", unit="F")
    assert (result.status, result.content) == (CallStatus.OK, "Oslo NO 2026-11-22 FAHRENHEIT")
    assert run(forecast, place={"city": "Rome", "country": "IT"}, day="2026-01-02").content == (
        "Rome IT 2026-01-02 CELSIUS"
    )
    assert result.wall_seconds > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"place": {"city": "Oslo"}}, "error: forecast needs day"),
        ({"place": {"city": 3}, "day": "2026-11-22"}, "error: place.city must be string"),
        ({"place": {"city": "Oslo"}, "day": "2026-11-22", "hour": 3}, "error: forecast has no hour"),
        # The schema's `format` is an annotation; the hint is what decides.
        ({"place": {"city": "Oslo"}, "day": "soon"}, "error: day: Input should be a valid date or datetime"),
    ],
)
def test_arguments_that_do_not_fit_never_reach_the_function(arguments: dict[str, Any], complaint: str) -> None:
    result = run(forecast, **arguments)
    assert result.status is CallStatus.INVALID_ARGUMENTS
    assert result.content.startswith(complaint)


def test_the_state_is_passed_and_not_shown() -> None:
    assert list(ring.spec.parameters["properties"]) == ["hour"]
    assert (ring.state_type, ring.spec.read_only) == (Alarms, False)
    alarms = Alarms([6])
    assert run(ring, alarms, hour=7).content == "2"
    assert alarms.hours == [6, 7]


def test_what_a_function_raises_is_the_models_observation() -> None:
    assert (run(fail, kind="value").status, run(fail, kind="value").content) == (
        CallStatus.TOOL_ERROR,
        "error: ValueError: no luck",
    )
    assert run(fail, kind="key").content == "error: KeyError: 'gone'"


def test_text_comes_back_as_it_is_and_everything_else_as_canonical_json() -> None:
    assert run(give, what="text").content == 'plain "text"'
    assert run(give, what="nothing").content == "null"
    assert run(give, what="nested").content == (
        '{"7":{"city":"Oslo","country":"NO"},"a":["1.50","2026-01-02"],"b":[1,2,3]}'
    )


def test_long_output_is_cut_where_it_can_be_seen() -> None:
    assert run(give, characters=20, what="long").content == "x" * 20 + CUT_MARKER
    assert run(give, characters=25, what="long").content == "x" * 25


def test_a_function_that_gives_back_no_data_is_our_error() -> None:
    with pytest.raises(InvalidTool, match=r"tool 'give': gave back a .*Handle has no form in JSON; return text"):
        run(give, what="handle")


def test_a_value_that_contains_itself_is_refused() -> None:
    ring_of_lists: list[Any] = []
    ring_of_lists.append(ring_of_lists)
    with pytest.raises(ValueError, match="a list that is nested too deep"):
        canonical_json(ring_of_lists)


@tool
def echo(value: Tree | dict[str, Any]) -> Any:
    """Give back what was given."""
    return value


def test_arguments_and_results_that_are_nested_too_deep_are_the_models_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"branch": deep}
    result = run(echo, value=deep)
    assert (result.status, result.content) == (
        CallStatus.INVALID_ARGUMENTS,
        "error: echo: arguments are nested too deep",
    )
    assert (
        give_deep.run(ToolCall("c", "give_deep", {}), None, 100).content
        == "error: the result is a dict that is nested too deep"
    )


def test_half_a_surrogate_pair_has_a_digest() -> None:
    assert digest("\ud800") != digest("\ud801")


def test_digests_do_not_depend_on_order() -> None:
    assert digest({"a": {"x", "y", "z"}, "b": 1}) == digest({"b": 1, "a": {"z", "y", "x"}})
    assert digest([1, 2]) != digest([2, 1])
    assert len(digest(None)) == 32


def undocumented(city: str) -> str:
    return city


def unhinted(city) -> str:
    """Weather."""
    return city


def opaque(handle: Handle) -> str:
    """Weather."""
    return str(handle)


def variadic(*cities: str) -> str:
    """Weather."""
    return " ".join(cities)


def misdescribed(city: str) -> str:
    """Weather.

    Args:
        town: a name that was changed
    """
    return city


def unresolved(city: Nowhere) -> str:  # pyright: ignore[reportUndefinedVariable]
    """Weather."""
    return str(city)


def late_state(hour: int, alarms: Alarms) -> str:
    """Weather."""
    return str(alarms)


async def eventual(city: str) -> str:
    """Weather."""
    return city


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (undocumented, "tool 'undocumented': has no docstring; write what it does"),
        (unhinted, "tool 'unhinted': parameter 'city' has no type hint"),
        (opaque, "tool 'opaque': a parameter has a type that JSON cannot express"),
        (variadic, r"tool 'variadic': has the parameter .*cities.*; expected each to be passed by name"),
        (misdescribed, r"tool 'misdescribed': its docstring describes \['town'\], found the parameters \['city'\]"),
        (unresolved, "tool 'unresolved': a type hint cannot be resolved .*Nowhere"),
        (late_state, r"tool 'late_state': takes session state in \['alarms'\]; expected it as the first"),
        (eventual, "tool 'eventual': is asynchronous"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_with_the_remedy(function: Any, complaint: str) -> None:
    with pytest.raises(InvalidTool, match=complaint):
        tool(function)
