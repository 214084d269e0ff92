"""A ledger session: one trajectory's private world, its tools, and the exact distance after every call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.ledger.progress import Tracker
from tool_sandbox.ledger.sampling import restore
from tool_sandbox.ledger.tools import TOOLS, LedgerTool, Refusal, Value
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, Progress, ToolCall, ToolResult

Runner = Callable[[ToolCall], ToolResult]
"""Runs an isolated tool."""


class LedgerSession:
    """Open, call, close. In-process and deterministic but for the seconds that it reports."""

    def __init__(self, task: Task, extra: dict[str, Runner]) -> None:
        """`extra`: tools that are not the ledger's own, by name; they cannot touch its state."""
        setting = restore(task.payload)
        self._world = setting.world
        self._offered = task.tools
        self._extra = extra
        self._tracker = Tracker(setting.calls, setting.target, self._world, task.tools)

    def call(self, call: ToolCall) -> CallOutcome:
        """Run one call and measure what it did to the distance."""
        before = self._tracker.remaining
        wall, cpu = time.perf_counter(), time.thread_time()
        result = self._run(call)
        if call.name not in self._extra:
            seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.thread_time() - cpu}
            result = replace(result, **seconds)
        return CallOutcome(result, Progress(before, self._tracker.remaining))

    def state_hash(self) -> str:
        return self._world.hash()

    def next_call(self) -> ToolCall | None:
        """What an oracle would call now; None where the task is done or lost."""
        return self._tracker.next_call()

    def close(self) -> None:
        """Nothing to free: the world goes with the session."""

    def _run(self, call: ToolCall) -> ToolResult:
        if call.name not in self._offered:
            return ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:20]}")
        if call.name in self._extra:
            return self._extra[call.name](call)
        tool = TOOLS[call.name]
        complaint = check_arguments(tool.spec, call)
        return self._execute(tool, call) if complaint is None else invalid_arguments(call, complaint)

    def _execute(self, tool: LedgerTool, call: ToolCall) -> ToolResult:
        values = tuple(_plain(call.arguments[name]) for name in tool.parameters)
        try:
            content = tool.run(self._world, *values)
        except Refusal as refusal:
            return ToolResult(call.id, CallStatus.TOOL_ERROR, f"error: {refusal}")
        self._tracker.observe(call.name, values)
        return ToolResult(call.id, CallStatus.OK, str(content))


def _plain(value: Any) -> Value:
    # JSON Schema counts 12.0 as an integer; the tools must not turn it into a float.
    return int(value) if isinstance(value, float) else value
