"""A session of one question: the calculator, the `python` tool, and the package's scorer as the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tool_sandbox.reasoning.calculator import CALCULATOR_SPEC, calculate
from tool_sandbox.reasoning.package import is_solved
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult

Runner = Callable[[ToolCall], ToolResult]
"""Runs an isolated tool."""


class ReasoningSession:
    """A `Session` that is `Judged`. It has no state: no call changes what a later one sees."""

    def __init__(self, dataset: str, entry: Mapping[str, Any], isolated: Mapping[str, Runner]) -> None:
        """`isolated`: tools beside the calculator, by name."""
        self._dataset = dataset
        self._entry = entry
        self._isolated = isolated

    def call(self, call: ToolCall) -> CallOutcome:
        """Run one call. Nobody knows how far it leads, so that no progress is recorded."""
        if call.name == CALCULATOR_SPEC.name:
            return CallOutcome(_timed(call))
        if call.name in self._isolated:
            return CallOutcome(self._isolated[call.name](call))
        return CallOutcome(ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:20]}"))

    def state_hash(self) -> None:
        """There is no state."""

    def verdict(self, answer: str | None) -> bool:
        """Whether the package's scorer gives the full score."""
        return is_solved(self._dataset, self._entry, answer)

    def close(self) -> None:
        """Nothing to free."""


def _timed(call: ToolCall) -> ToolResult:
    wall, cpu = time.perf_counter(), time.thread_time()
    result = calculate(call)
    return replace(result, wall_seconds=time.perf_counter() - wall, cpu_seconds=time.thread_time() - cpu)
