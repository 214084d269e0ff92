"""Tools of the host, as functions that code in an interpreter may call.

Owns `HostTool` and the way there and back: arguments become a `ToolCall` that must fit the tool's schema, a result
becomes a value or an exception. Knows nothing of the interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tool_sandbox.arguments import check_arguments
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec


@dataclass(frozen=True, slots=True)
class HostTool:
    """A tool of the session's own world, offered to code."""

    spec: ToolSpec
    run: Callable[[ToolCall], ToolResult]
    """Called in the session's own process, and only with arguments that fit the schema."""


class HostCalls:
    """The host tools during one call of code. Mutable, used once."""

    def __init__(self, tools: Mapping[str, HostTool], call_id: str) -> None:
        """`call_id`: of the call of code; those it makes are numbered after it."""
        self._tools = tools
        self._call_id = call_id
        self._made = 0
        self._defect: Exception | None = None
        self.lost: str | None = None
        """What a host tool said that failed for reasons of ours; None where none did."""

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The tools as functions: positional arguments in the schema's order, or by name."""
        return {name: self._function(tool) for name, tool in self._tools.items()}

    def raise_defect(self) -> None:
        """Raise what a host tool raised: a defect of ours must not end as an error of the model's code."""
        if self._defect is not None:
            raise self._defect

    def _function(self, tool: HostTool) -> Callable[..., Any]:
        def function(*positional: Any, **named: Any) -> Any:
            call = self._call(tool.spec, positional, named)
            try:
                result = tool.run(call)
            except Exception as error:
                self._defect = error
                raise
            if result.status is CallStatus.OK:
                return _value(result.content)
            if result.status.is_infrastructure:
                self.lost = result.content.removeprefix("error: ")
            raise RuntimeError(result.content.removeprefix("error: "))

        return function

    def _call(self, spec: ToolSpec, positional: tuple[Any, ...], named: dict[str, Any]) -> ToolCall:
        names = list(spec.parameters.get("properties", {}))
        if len(positional) > len(names):
            raise TypeError(f"{spec.signature()} takes {len(names)} arguments, not {len(positional)}")
        given = dict(zip(names, positional, strict=False))
        twice = sorted(given.keys() & named.keys())
        if twice:
            raise TypeError(f"{spec.signature()} got {' and '.join(twice)} twice")
        self._made += 1
        call = ToolCall(f"{self._call_id}.{self._made}", spec.name, _json(spec, given | named))
        complaint = check_arguments(spec, call)
        if complaint is not None:
            raise TypeError(complaint)
        return call


def _json(spec: ToolSpec, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as a model would have sent them: tuples are arrays, functions are nothing."""
    try:
        return json.loads(json.dumps(arguments, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{spec.signature()} takes JSON only: {error}") from error


def _value(content: str) -> Any:
    """A result as a value: `12` is a number, `lamp` is text."""
    try:
        return json.loads(content)
    except ValueError:
        return content
