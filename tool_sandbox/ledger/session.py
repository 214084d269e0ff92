"""A ledger session: one trajectory's private world, its tools, and the exact distance after every call."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.ledger.setting import restore
from tool_sandbox.ledger.tools import TOOLS, Refusal
from tool_sandbox.ledger.variants import LOGIN, VARIANTS, Variant, offered
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, Progress, ToolCall, ToolResult

Runner = Callable[[ToolCall], ToolResult]
"""Runs an isolated tool."""


class LedgerSession:
    """Open, call, fork, close. In-process and deterministic but for the seconds that it reports."""

    def __init__(self, task: Task, extra: dict[str, Runner]) -> None:
        """`extra`: tools that are not the ledger's own, by name; they keep nothing and cannot touch its state."""
        setting = restore(task.payload)
        self._world = setting.world
        self._faults = setting.faults
        self._names = task.tools
        self._extra = extra
        self._offered = offered(task.tools)
        tools = [name for name in self._offered if name in TOOLS]
        self._tracker = setting.tracker(self._world, self._faults, tools)

    def call(self, call: ToolCall) -> CallOutcome:
        """Run one call and measure what it did to the distance."""
        before = self._tracker.remaining
        wall, cpu = time.perf_counter(), time.thread_time()
        result = self._run(call)
        if call.name not in self._extra:
            seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.thread_time() - cpu}
            result = replace(result, **seconds)
        return CallOutcome(result, Progress(before, self._tracker.remaining))

    def fork(self) -> LedgerSession:
        """A session of its own that continues from this state, by value: neither sees what the other does."""
        twin = copy.copy(self)
        twin._world, twin._faults = self._world.snapshot(), self._faults.fork()
        twin._tracker = self._tracker.fork(twin._world, twin._faults)
        return twin

    def state_hash(self) -> str:
        return self._world.hash()

    def next_call(self) -> ToolCall | None:
        """What an oracle would call now; None where the task is done or lost."""
        move = self._tracker.next_move()
        return None if move is None else self._offered[move.tool].call(move.values, move.cursor)

    def close(self) -> None:
        """Nothing to free: the world goes with the session."""

    def _run(self, call: ToolCall) -> ToolResult:
        if call.name not in self._names:
            return ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:20]}")
        if call.name in self._extra:
            return self._extra[call.name](call)
        variant = VARIANTS[call.name]
        complaint = check_arguments(variant.spec, call)
        if complaint is not None:
            return invalid_arguments(call, complaint)
        try:
            return ToolResult(call.id, CallStatus.OK, self._execute(variant, call))
        except Refusal as refusal:
            return ToolResult(call.id, CallStatus.TOOL_ERROR, f"error: {refusal}")

    def _execute(self, variant: Variant, call: ToolCall) -> str:
        """The observation. Raises `Refusal` where the tool says no."""
        self._faults.admit(variant.base)
        if variant.tool is LOGIN:
            self._faults.log_in()
        values = variant.values(call.arguments)
        result = variant.tool.run(self._world, *values)
        page = self._faults.page(values[0], variant.cursor(call.arguments)) if variant.is_list else None
        if page is not None:
            return page
        if variant.tool is not LOGIN:
            self._tracker.observe(variant.base, values, result)
        return str(result)
