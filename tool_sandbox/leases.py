"""Sessions by lease, with a bound on their number and a time to live.

Owns `SessionTable` and `copy_session`. A trajectory that dies without closing gives its session back when its lease
runs out. A session is forked by value where it can be, else by doing again what was done and comparing the state. Knows
nothing of Ray.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tool_sandbox.errors import ForkDiverged, LeaseLost, SandboxFull
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import Dialogue, Forkable, Judged, Session
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, ToolCall, ToolResult

Recorder = Callable[[str, str, Task, ToolCall, ToolResult], None]
"""Told of each call that ended: owner, lease, task, call, result. What it raises is raised: no call goes unrecorded."""


class UserTurn(NamedTuple):
    """In a session's history: the model ended its turn and the user spoke."""


Done = ToolCall | UserTurn
"""One thing that was done in a session."""


@dataclass(slots=True)
class _Lease:
    session: Session
    task: Task
    owner: str
    expires: float
    history: list[Done] = field(default_factory=list)
    """What was done since the session was opened, so that it can be done again."""


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
        closed: Callable[[str], None] = lambda _owner: None,
    ) -> None:
        """`clock` gives seconds; every use of a lease extends it by `lease_seconds`.

        `record`: see `audit` and `call_metrics`. `closed` is told the owner of each session that is closed or expired.
        """
        self._max_sessions = max_sessions
        self._lease_seconds = lease_seconds
        self._opener = opener
        self._clock = clock
        self._record = record
        self._closed = closed
        self._leases: dict[str, _Lease] = {}
        self._opening = 0
        self._lock = threading.Lock()

    def open(self, task: Task, owner: str = "") -> str:
        """Open a session and return its lease. Raises `SandboxFull`, and what the toolset raises for a bad task."""
        return self._admit(lambda: _Lease(self._opener(task), task, owner, 0.0))

    def fork(self, lease: str) -> str:
        """A session of its own that continues from the state of this one; returns its lease.

        Raises:
            ForkDiverged: the calls were repeated and led to another state.
            LeaseLost, SandboxFull: as for calls and for opening.
        """
        held = self._use(lease)
        return self._admit(lambda: _Lease(self._copy(held), held.task, held.owner, 0.0, list(held.history)))

    def owner(self, lease: str) -> str:
        """Who opened the session. Raises `LeaseLost`."""
        return self._use(lease).owner

    def call(self, lease: str, call: ToolCall) -> CallOutcome:
        """Run one call in the session of a lease. Raises `LeaseLost`."""
        held = self._use(lease)
        outcome = held.session.call(call)
        held.history.append(call)
        self._renew(lease)
        if self._record is not None:
            self._record(held.owner, lease, held.task, call, outcome.result)
        return outcome

    def state_hash(self, lease: str) -> str | None:
        """Hash of the session's state. Raises `LeaseLost`."""
        return self._use(lease).session.state_hash()

    def user_turn(self, lease: str) -> str | None:
        """What the user says next; None where the session is no `Dialogue`, or the user is done. Raises `LeaseLost`."""
        held = self._use(lease)
        held.history.append(UserTurn())
        return held.session.user_turn() if isinstance(held.session, Dialogue) else None

    def verdict(self, lease: str, answer: str | None) -> bool | None:
        """The session's own verdict; None where it is not `Judged`, or cannot tell. Raises `LeaseLost`."""
        session = self._use(lease).session
        return session.verdict(answer) if isinstance(session, Judged) else None

    def close(self, lease: str) -> None:
        """Give a session back; does nothing for a lease that is gone already."""
        with self._lock:
            gone = self._leases.pop(lease, None)
        if gone is not None:
            gone.session.close()
            self._closed(gone.owner)

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

    def _admit(self, make: Callable[[], _Lease]) -> str:
        self.expire()
        with self._lock:
            if len(self._leases) + self._opening >= self._max_sessions:
                raise SandboxFull(
                    f"sandbox: all {self._max_sessions} sessions are open; close some, wait for leases to run out "
                    f"({self._lease_seconds:g} s), or raise max_sessions"
                )
            self._opening += 1
        try:
            held = make()
        finally:
            with self._lock:
                self._opening -= 1
        lease = uuid.uuid4().hex
        held.expires = self._clock() + self._lease_seconds
        with self._lock:
            self._leases[lease] = held
        return lease

    def _copy(self, held: _Lease) -> Session:
        return copy_session(held.session, held.task, held.history, self._opener)

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


def copy_session(
    original: Session, task: Task, history: Sequence[Done], opener: Callable[[Task], Session] = open_session
) -> Session:
    """A session of its own that continues from the state of `original`: by value, else by doing `history` again.

    Raises:
        ForkDiverged: the calls were repeated and led to another state.
    """
    if isinstance(original, Forkable):
        return original.fork()
    session = opener(task)
    try:
        _repeat(history, session)
        _compare(original, session, task, len(history))
    except BaseException:
        session.close()
        raise
    return session


def _repeat(history: Sequence[Done], session: Session) -> None:
    for done in history:
        if isinstance(done, ToolCall):
            session.call(done)
        elif isinstance(session, Dialogue):
            session.user_turn()


def _compare(original: Session, session: Session, task: Task, repeated: int) -> None:
    expected, reached = original.state_hash(), session.state_hash()
    if reached != expected:
        raise ForkDiverged(
            f"task {task.id!r}: {repeated} repeated calls led to the state {reached}, expected "
            f"{expected}; a tool of this toolset is not deterministic, so its sessions cannot be forked"
        )
