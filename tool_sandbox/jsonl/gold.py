"""Gold calls: how many of the calls that a right solution makes are still to be made.

Calls match in any order, each gold call once. Where order matters, the data enforces it, since a later call needs what
an earlier one gave; where it does not, no order is better than another. Calls beyond the gold ones change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tool_sandbox.rendering import canonical_json
from tool_sandbox.tools import ToolSpec


class GoldCalls:
    """What is left of a task's gold calls. Mutable: `observe` each call that succeeded."""

    def __init__(self, keys: Iterable[str]) -> None:
        """`keys`: of the gold calls, as `call_key` gives them."""
        self._missing = Counter(keys)

    @property
    def remaining(self) -> int:
        """Gold calls not yet made."""
        return self._missing.total()

    def observe(self, key: str) -> None:
        """Take note of a call that succeeded."""
        if self._missing[key] > 0:
            self._missing[key] -= 1

    def copy(self) -> GoldCalls:
        """One of its own, at the same place."""
        return GoldCalls(self._missing.elements())


def call_key(spec: ToolSpec, arguments: Mapping[str, Any]) -> str:
    """Equal for calls that ask the same: defaults count as given, `12.0` is `12`, the order of names is nothing."""
    return canonical_json([spec.name, _whole({**_defaults(spec), **arguments})])


def _defaults(spec: ToolSpec) -> dict[str, Any]:
    properties: Mapping[str, Any] = spec.parameters.get("properties", {})
    return {
        name: schema["default"]
        for name, schema in properties.items()
        if isinstance(schema, Mapping) and "default" in schema
    }


def _whole(value: Any) -> Any:
    # JSON Schema counts 12.0 as an integer.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list | tuple) else value
