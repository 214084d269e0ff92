"""The tool classes of one dialogue with a state of their own: calls by name, differences, a hash.

Owns `World`. The package runs model text through `eval`, keeps its instances in module globals, and its classes share
more than they should: default arguments that are lists, module tables that enter the state, the precision of `mpmath`
and `decimal`. Here a call is the name of a documented function with JSON arguments, made on an instance that nobody
else holds, with copies of whatever is handed over.
"""

from __future__ import annotations

import copy
import decimal
import hashlib
import inspect
import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from tool_sandbox.bfcl.documents import tool_specs
from tool_sandbox.bfcl.package import Entry, open_instance, tool_class

_one_call = threading.Lock()
"""Held around every call: some functions write to their module before they read from it. A call takes microseconds."""


class World:
    """One instance of each class that a dialogue involves. Mutable; one trajectory's own."""

    def __init__(self, entry: Entry) -> None:
        self._instances = {name: open_instance(name, entry) for name in entry.classes}

    def has(self, tool: str) -> bool:
        """Whether one of the classes has this function."""
        return tool in tool_specs() and tool_specs()[tool].family in self._instances

    def call(self, tool: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """Run one of the functions. Gives the text that the package would record, and whether the function worked."""
        family = tool_specs()[tool].family
        given = _shared_defaults(family, tool) | dict(arguments)
        try:
            with _alone():
                result = getattr(self._instances[family], tool)(**copy.deepcopy(given))
                return _recorded(result), not (isinstance(result, dict) and "error" in result)
        except Exception as error:  # noqa: BLE001 - whatever a function raises is its answer to the model
            return f"Error during execution: {error}", False

    def difference(self, other: World) -> int:
        """How many public attributes of the instances differ: what the package's state check compares."""
        pairs = ((mine, other._instances[name]) for name, mine in self._instances.items())
        return sum(_differs(mine, theirs, name) for mine, theirs in pairs for name in _public(theirs))

    def hash(self) -> str:
        """SHA-256, in hexadecimal, of everything that later calls can see."""
        met: dict[int, int] = {}
        state = {name: _canonical(vars(instance), met) for name, instance in sorted(self._instances.items())}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


@contextmanager
def _alone() -> Iterator[None]:
    """No other call meanwhile, and whatever precision this one sets, nobody else sees it."""
    import mpmath

    with _one_call, decimal.localcontext(), mpmath.workprec(mpmath.mp.prec):
        yield


@cache
def _shared_defaults(class_name: str, tool: str) -> dict[str, Any]:
    """Default arguments that every call would share and may change."""
    parameters = inspect.signature(getattr(tool_class(class_name), tool)).parameters.values()
    return {one.name: copy.deepcopy(one.default) for one in parameters if isinstance(one.default, list | dict | set)}


def _recorded(result: Any) -> str:
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def _public(instance: Any) -> list[str]:
    return [name for name in vars(instance) if not name.startswith("_")]


def _differs(mine: Any, theirs: Any, name: str) -> bool:
    try:
        return bool(getattr(mine, name) != getattr(theirs, name))
    except RecursionError:
        # A folder that was copied into itself; no ground truth does that.
        return True


def _canonical(value: Any, met: dict[int, int]) -> Any:
    """A JSON value that is equal for equal states; an object that was met before is named by its place in the walk."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return [[str(key), _canonical(value[key], met)] for key in sorted(value, key=str)]
        case list() | tuple():
            return [_canonical(item, met) for item in value]
        case set() | frozenset():
            return sorted(map(repr, value))
        case random.Random():
            return repr(value.getstate())
    if not hasattr(value, "__dict__"):
        return repr(value)
    if id(value) in met:
        return f"object {met[id(value)]}"
    met[id(value)] = len(met)
    # The time of the last change is the clock's, and no function shows it.
    return _canonical({name: each for name, each in vars(value).items() if name != "_last_modified"}, met)
