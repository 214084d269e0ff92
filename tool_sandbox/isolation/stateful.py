"""Tier T3: one interpreter and one folder for a whole trajectory, in a sandbox that nobody used before or uses again.

Owns `StatefulSandbox`, its warm sandboxes and the replay of sessions. A session is forked by repeating its calls in a
new sandbox and comparing the digest of variables and files.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tool_sandbox.code_tools import admit, by_name
from tool_sandbox.config import SandboxConfig
from tool_sandbox.errors import ForkDiverged, IsolationUnavailable, LeaseLost, SandboxFull, SandboxUnavailable
from tool_sandbox.isolation import outcome
from tool_sandbox.isolation.level import refuse_weak
from tool_sandbox.isolation.worker import Worker
from tool_sandbox.sandbox import CodeTool, Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust


class StatefulSandbox:
    """Hands out sessions, each with a sandbox of its own. Safe to use from many threads."""

    trust = Trust.STATEFUL

    def __init__(self, tools: Sequence[CodeTool], config: SandboxConfig, level: IsolationLevel) -> None:
        """`level`: how to isolate; see `attacks.canaries.verify`. Starts `warm_sessions` ahead, in the background.

        Raises:
            InvalidTool: a tool declares another trust, or two have one name.
            IsolationUnavailable: the level is weaker than what may run the model's code.
        """
        refuse_weak(level)
        self._tools = by_name(tools, self.trust)
        self._config = config
        self._level = level
        self._slots = threading.BoundedSemaphore(config.max_stateful_sessions)
        self._lock = threading.Lock()
        self._sessions: set[StatefulSession] = set()
        self._warm: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-warmer")
        self._closed = False
        for _ in range(config.warm_sessions):
            self._starter.submit(self._refill)

    @property
    def level(self) -> IsolationLevel:
        return self._level

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def open(self) -> StatefulSession:
        """A fresh session. Raises `SandboxFull`, and `SandboxUnavailable` where a sandbox does not start."""
        if self._closed:
            raise LeaseLost("stateful sandbox: it is closed")
        if not self._slots.acquire(blocking=False):
            raise SandboxFull(
                f"stateful sandbox: all {self._config.max_stateful_sessions} sessions are open; close some, or raise "
                "sandbox.max_stateful_sessions"
            )
        try:
            session = StatefulSession(self, self._take(), self._tools, self._config)
        except BaseException:
            self._slots.release()
            raise
        with self._lock:
            self._sessions.add(session)
        return session

    def fork(self, snapshot: Snapshot) -> StatefulSession:
        session = self.open()
        try:
            session.replay(snapshot)
        except BaseException:
            session.close()
            raise
        return session

    def forget(self, session: StatefulSession) -> None:
        """A session was closed: its place is free."""
        with self._lock:
            if session not in self._sessions:
                return
            self._sessions.remove(session)
        self._slots.release()

    def close(self) -> None:
        """End every session and every warm sandbox."""
        self._closed = True
        self._starter.shutdown(wait=True)
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
        while (worker := self._next_warm()) is not None:
            worker.close()

    def _take(self) -> Worker:
        worker = self._next_warm()
        if worker is None:
            return self._start()
        self._starter.submit(self._refill)
        return worker

    def _start(self) -> Worker:
        try:
            return Worker(self._config, self._level)
        except IsolationUnavailable as error:
            # The level was verified, so this is a passing need of the machine: memory, processes, descriptors.
            raise SandboxUnavailable(str(error)) from error

    def _next_warm(self) -> Worker | None:
        try:
            return self._warm.get_nowait()
        except queue.Empty:
            return None

    def _refill(self) -> None:
        if not self._closed:
            self._warm.put(Worker(self._config, self._level))


class StatefulSession:
    """One trajectory's interpreter. Not thread-safe."""

    def __init__(
        self, sandbox: StatefulSandbox, worker: Worker, tools: dict[str, CodeTool], config: SandboxConfig
    ) -> None:
        self._sandbox = sandbox
        self._worker: Worker | None = worker
        self._tools = tools
        self._config = config
        self._programs: list[str] = []

    def call(self, call: ToolCall) -> ToolResult:
        tool = admit(self._tools, call)
        if isinstance(tool, ToolResult):
            return tool
        source = tool.source(call)
        try:
            reply = self._ask({"kind": "run", "code": source})
        except SandboxUnavailable as error:
            self.close()
            return ToolResult(call.id, CallStatus.INFRA_ERROR, f"error: {error}", isolation=self._sandbox.level)
        # What was lost cannot be seen by later calls, so it need not be repeated either.
        self._programs = [*self._programs, source] if reply["alive"] else []
        return outcome.result(call, reply, self._config.cpu_seconds, self._sandbox.level)

    def state_hash(self) -> str:
        """Digest of variables and files. Raises `SandboxUnavailable` where the model's code prevents it."""
        reply = self._ask({"kind": "state"})
        report: Any = reply["report"]
        if not isinstance(report, dict) or not isinstance(report.get("state"), str):
            raise SandboxUnavailable("stateful session: its state cannot be told; the code in it stopped the attempt")
        return report["state"]

    def snapshot(self) -> Snapshot:
        return Snapshot(json.dumps(self._programs).encode(), self.state_hash())

    def replay(self, snapshot: Snapshot) -> None:
        """Repeat the calls of a snapshot in this fresh session. Raises `ForkDiverged`."""
        for source in _programs(snapshot):
            self._ask({"kind": "run", "code": source})
            self._programs.append(source)
        reached = self.state_hash()
        if reached != snapshot.state_hash:
            raise ForkDiverged(
                f"stateful session: {len(self._programs)} repeated calls led to the state {reached}, and the "
                f"snapshot was taken in {snapshot.state_hash}; code that reads a clock or random numbers does not fork"
            )

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
            self._sandbox.forget(self)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None:
            raise LeaseLost("stateful session: it is closed")
        return self._worker.request(request)


def _programs(snapshot: Snapshot) -> list[str]:
    try:
        return json.loads(snapshot.data)
    except ValueError as error:
        raise ForkDiverged(
            f"stateful session: its snapshot of state {snapshot.state_hash[:12]} holds no calls ({error}); fork it in "
            "the tier where it was taken"
        ) from error
