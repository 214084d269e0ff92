"""Sessions by lease, with a bound on their number and a time to live.

Owns `SessionTable`. A trajectory that dies without closing gives its session back when its lease runs out. Knows
nothing of Ray.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tool_sandbox.errors import LeaseLost, SandboxFull
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import Session
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, ToolCall, ToolResult

Recorder = Callable[[str, Task, ToolCall, ToolResult], None]
"""Told of each call that ended: lease, task, call, result. What it raises goes to the caller."""


@dataclass(slots=True)
class _Lease:
    session: Session
    task: Task
    expires: float


def open_session(task: Task) -> Session:
    """A session of the toolset that the task names."""
    return load_toolset(task.toolset).open(task)


class SessionTable:
    """The open sessions of one process. Safe to use from many threads, if each lease is used by one at a time."""

    def __init__(
        self,
        max_sessions: int,
        lease_seconds: float,
        opener: Callable[[Task], Session] = open_session,
        clock: Callable[[], float] = time.monotonic,
        record: Recorder | None = None,
    ) -> None:
        """`clock` gives seconds; every use of a lease extends it by `lease_seconds`. `record`: see `audit`."""
        self._max_sessions = max_sessions
        self._lease_seconds = lease_seconds
        self._opener = opener
        self._clock = clock
        self._record = record
        self._leases: dict[str, _Lease] = {}
        self._opening = 0
        self._lock = threading.Lock()

    def open(self, task: Task) -> str:
        """Open a session and return its lease. Raises `SandboxFull`, and what the toolset raises for a bad task."""
        self.expire()
        with self._lock:
            if len(self._leases) + self._opening >= self._max_sessions:
                raise SandboxFull(
                    f"sandbox: all {self._max_sessions} sessions are open; close some, wait for leases to run out "
                    f"({self._lease_seconds:g} s), or raise max_sessions"
                )
            self._opening += 1
        try:
            session = self._opener(task)
        finally:
            with self._lock:
                self._opening -= 1
        lease = uuid.uuid4().hex
        with self._lock:
            self._leases[lease] = _Lease(session, task, self._clock() + self._lease_seconds)
        return lease

    def call(self, lease: str, call: ToolCall) -> CallOutcome:
        """Run one call in the session of a lease. Raises `LeaseLost`."""
        held = self._use(lease)
        outcome = held.session.call(call)
        self._renew(lease)
        if self._record is not None:
            self._record(lease, held.task, call, outcome.result)
        return outcome

    def state_hash(self, lease: str) -> str | None:
        """Hash of the session's state. Raises `LeaseLost`."""
        return self._use(lease).session.state_hash()

    def close(self, lease: str) -> None:
        """Give a session back; does nothing for a lease that is gone already."""
        with self._lock:
            gone = self._leases.pop(lease, None)
        if gone is not None:
            gone.session.close()

    def expire(self) -> int:
        """Close the sessions whose leases ran out; returns how many."""
        now = self._clock()
        with self._lock:
            dead = [lease for lease, held in self._leases.items() if held.expires <= now]
        for lease in dead:
            self.close(lease)
        return len(dead)

    def __len__(self) -> int:
        with self._lock:
            return len(self._leases)

    def _use(self, lease: str) -> _Lease:
        self.expire()
        self._renew(lease)
        with self._lock:
            held = self._leases.get(lease)
        if held is None:
            raise LeaseLost(f"lease {lease!r} is not open: it was closed, or unused for {self._lease_seconds:g} s")
        return held

    def _renew(self, lease: str) -> None:
        with self._lock:
            if lease in self._leases:
                self._leases[lease].expires = self._clock() + self._lease_seconds
