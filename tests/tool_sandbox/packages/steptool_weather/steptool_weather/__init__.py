"""A toolset from outside: two functions, a state and a file of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tool_sandbox.functions import SessionState, tool
from tool_sandbox.jsonl import JsonlToolset

DEGREES = {"Oslo": -3, "Rome": 14, "Cairo": 22}


@dataclass
class Alarms(SessionState):
    """The cities that the user is warned about."""

    cities: list[str] = field(default_factory=list)


@tool(family="weather")
def temperature(city: str) -> int:
    """Temperature in a city.

    Args:
        city: its English name

    Returns:
        degrees Celsius
    """
    if city not in DEGREES:
        raise LookupError(f"no city {city}")
    return DEGREES[city]


@tool(family="weather", read_only=False)
def warn(alarms: Alarms, city: str) -> str:
    """Warn the user about frost in a city.

    Args:
        city: its English name
    """
    alarms.cities.append(city)
    return f"warned about {city}"


TOOLS = [temperature, warn]


def toolset() -> JsonlToolset:
    """The factory behind the entry point `weather`."""
    return JsonlToolset(Path(__file__).parent / "tasks.jsonl", name="weather")
