"""Tier T2: model-written programs, each in a fresh process forked from a warm interpreter inside a sandbox.

Owns `IsolatedSandbox` and its workers. Calls have no memory: a session is the right to make them. A worker that was
lost or left dirty is replaced; the next call does not notice.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from tool_sandbox.code_tools import admit, by_name
from tool_sandbox.config import SandboxConfig
from tool_sandbox.errors import ForkDiverged, IsolationUnavailable, LeaseLost, SandboxUnavailable
from tool_sandbox.isolation import outcome
from tool_sandbox.isolation.level import refuse_weak
from tool_sandbox.isolation.worker import Worker
from tool_sandbox.sandbox import CodeTool, Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

ATTEMPTS = 2
"""Sandboxes that one call may cost. Being stateless, it is simply made again; if it breaks both, it did so itself."""
PRELOAD = (
    *("ast", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "time", "typing"),
)
"""What programs import most: loaded once in the zygote, so that no call pays for it."""
NOTHING = Snapshot(b"", "")
"""The state of a session without memory."""


class IsolatedSandbox:
    """Runs each call in a process of its own. Safe to use from many threads."""

    trust = Trust.ISOLATED

    def __init__(self, tools: Sequence[CodeTool], config: SandboxConfig, level: IsolationLevel) -> None:
        """`level`: how to isolate; see `attacks.canaries.verify`. Workers start when they are first needed.

        Raises:
            InvalidTool: a tool declares another trust, or two have one name.
            IsolationUnavailable: the level is weaker than what may run the model's code.
        """
        refuse_weak(level)
        self._tools = by_name(tools, self.trust)
        self._config = config
        self._level = level
        self._closed = False
        # Last in, first out: the worker that ran last is warm.
        self._free: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(config.workers):
            self._free.put(None)

    @property
    def level(self) -> IsolationLevel:
        return self._level

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def open(self) -> IsolatedSession:
        return IsolatedSession(self)

    def fork(self, snapshot: Snapshot) -> IsolatedSession:
        if snapshot != NOTHING:
            raise ForkDiverged("isolated session: the snapshot holds a state, and calls of this tier have none")
        return IsolatedSession(self)

    def run(self, call: ToolCall) -> ToolResult:
        """Run one call; blocks until it ended, or until no worker came free in time."""
        tool = admit(self._tools, call)
        if isinstance(tool, ToolResult):
            return tool
        try:
            return self._attempt(call, tool.source(call))
        except (SandboxUnavailable, IsolationUnavailable) as error:
            return ToolResult(call.id, CallStatus.INFRA_ERROR, f"error: {error}", isolation=self._level)

    def close(self) -> None:
        """End every worker. A call that is running ends first."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._config.workers):
            worker = self._take()
            if worker is not None:
                worker.close()

    def _attempt(self, call: ToolCall, source: str) -> ToolResult:
        asked = time.monotonic()
        for _ in range(ATTEMPTS):
            try:
                reply = self._ask(source)
            except BrokenSandbox:
                continue
            queued = max(0.0, time.monotonic() - asked - reply["wall_seconds"])
            return outcome.result(call, reply, self._config.cpu_seconds, self._level, queued)
        error = f"error: the call broke {ATTEMPTS} sandboxes"
        return ToolResult(call.id, CallStatus.TOOL_ERROR, error, isolation=self._level)

    def _ask(self, source: str) -> dict[str, Any]:
        if self._closed:
            raise LeaseLost("isolated sandbox: it is closed")
        worker, kept = self._take(), None
        try:
            worker = worker or Worker(self._config, self._level, PRELOAD)
            try:
                reply = worker.request({"kind": "once", "code": source})
            except SandboxUnavailable as error:
                raise BrokenSandbox(str(error)) from error
            kept = worker if reply["clean"] else None
            return reply
        finally:
            if worker is not None and kept is None:
                worker.close()
            self._free.put(kept)

    def _take(self) -> Worker | None:
        try:
            return self._free.get(timeout=self._config.queue_seconds)
        except queue.Empty:
            raise SandboxUnavailable(
                f"isolated sandbox: none of {self._config.workers} workers came free in "
                f"{self._config.queue_seconds:g} s; raise sandbox.workers"
            ) from None


class BrokenSandbox(SandboxUnavailable):
    """A worker was lost while it ran a call."""


class IsolatedSession:
    """The right to make calls. Holds nothing else."""

    def __init__(self, sandbox: IsolatedSandbox) -> None:
        self._sandbox = sandbox
        self._open = threading.Event()
        self._open.set()

    def call(self, call: ToolCall) -> ToolResult:
        if not self._open.is_set():
            raise LeaseLost(f"isolated session: it is closed; call {call.id!r} was not run")
        return self._sandbox.run(call)

    def state_hash(self) -> str:
        return NOTHING.state_hash

    def snapshot(self) -> Snapshot:
        return NOTHING

    def close(self) -> None:
        self._open.clear()
