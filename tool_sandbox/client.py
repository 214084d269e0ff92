"""The way from an episode to the sandboxes: open, call, converse, judge, close; asynchronous throughout.

Owns the `SandboxClient` protocol and `LocalSandbox`, which keeps the sessions in this process. `pool.RaySandboxPool` is
the other implementation; episodes cannot tell them apart.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tool_sandbox.admission import WaitingRoom
from tool_sandbox.call_metrics import CallCosts, ToolCosts
from tool_sandbox.config import PoolConfig
from tool_sandbox.errors import LeaseLost, SandboxFull, SandboxUnavailable
from tool_sandbox.leases import Recorder, SessionTable, open_session
from tool_sandbox.session import Session
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult

CALL_THREADS = 32
"""Calls that run at once in one process; isolated code holds its thread until it ends."""
EXPIRY_SECONDS = 1.0
"""How often one who waits looks for leases that ran out."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full a sandbox is."""

    sessions: Mapping[str, int]
    """Open sessions by owner."""
    waiting: int

    @property
    def open(self) -> int:
        return sum(self.sessions.values())


class SandboxClient(Protocol):
    """Sessions by lease. One trajectory holds one lease and makes one call at a time."""

    async def open(self, task: Task) -> str:
        """Open a session and return its lease.

        Raises:
            SandboxFull: every session stayed taken until the deadline.
            SandboxUnavailable: no sandbox answered before the deadline.
        """
        ...

    async def fork(self, lease: str) -> str:
        """A session of its own that continues from the state of this one; returns its lease.

        Raises:
            ForkDiverged: the session cannot be repeated to the same state.
            LeaseLost, SandboxFull: as for calls and for opening.
        """
        ...

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        """Run one call. A lost lease or sandbox is an outcome with status `INFRA_ERROR`, never an exception."""
        ...

    async def state_hash(self, lease: str) -> str | None:
        """Canonical hash of the session's state; None where the toolset has no state. Raises `LeaseLost`."""
        ...

    async def user_turn(self, lease: str) -> str | None:
        """The model ended its turn: what the user says next, or None where nobody speaks again. Raises `LeaseLost`."""
        ...

    async def verdict(self, lease: str, answer: str | None) -> bool | None:
        """Whether the toolset itself calls the task solved; None where it has no say. Raises `LeaseLost`."""
        ...

    async def close(self, lease: str) -> None:
        """Give the session back. Safe to call twice, and after the sandbox died."""
        ...


def infrastructure_failure(call: ToolCall, reason: str) -> CallOutcome:
    """The outcome of a call that was lost on our side."""
    return CallOutcome(ToolResult(call.id, CallStatus.INFRA_ERROR, f"error: {reason}"))


class LocalSandbox:
    """Sessions in this process: what an actor of the pool holds, and what tests and users without Ray hold directly."""

    def __init__(
        self, config: PoolConfig, opener: Callable[[Task], Session] = open_session, recorders: Sequence[Recorder] = ()
    ) -> None:
        """`recorders` are told of each call that ended, beside the costs that are always added up."""
        self._config = config
        self._costs = CallCosts()
        self._recorders = (self._costs.record, *recorders)
        self._room = WaitingRoom(config.max_sessions)
        self._table = SessionTable(
            config.max_sessions, config.lease_seconds, opener, record=self._record, closed=self._room.release
        )
        self._threads = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="sandbox-call")
        self._at_work: dict[int, float] = {}
        self._numbers = itertools.count()

    async def open(self, task: Task, owner: str = "", wait_seconds: float | None = None) -> str:
        """`wait_seconds` for a free place; None is what the configuration says."""
        return await self._admitted(owner, wait_seconds, lambda: self._table.open(task, owner))

    async def fork(self, lease: str) -> str:
        owner = await self._run(self._table.owner, lease)
        return await self._admitted(owner, None, lambda: self._table.fork(lease))

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        try:
            return await self._run(self._table.call, lease, call)
        except (LeaseLost, SandboxFull, SandboxUnavailable) as lost:
            # Not only the lease: tools start their sandboxes with their first call, and those can be full or gone.
            return infrastructure_failure(call, str(lost))

    async def state_hash(self, lease: str) -> str | None:
        return await self._run(self._table.state_hash, lease)

    async def user_turn(self, lease: str) -> str | None:
        return await self._run(self._table.user_turn, lease)

    async def verdict(self, lease: str, answer: str | None) -> bool | None:
        return await self._run(self._table.verdict, lease, answer)

    async def close(self, lease: str) -> None:
        await self._run(self._table.close, lease)

    def occupancy(self) -> Occupancy:
        """Sessions by owner, and how many wait for one."""
        self._table.expire()
        return Occupancy(self._room.held(), self._room.waiting())

    def hung(self) -> int:
        """Threads that work for longer than any call may take: a trusted tool that never returns holds one for good."""
        now = time.monotonic()
        return sum(now - started > self._config.call_seconds for started in list(self._at_work.values()))

    def costs(self) -> Mapping[tuple[str, CallStatus], ToolCosts]:
        """Costs of the calls so far, by tool and status."""
        return self._costs.snapshot()

    async def _admitted(self, owner: str, wait_seconds: float | None, enter: Callable[[], str]) -> str:
        await self._wait_for_place(owner, self._config.queue_seconds if wait_seconds is None else wait_seconds)
        try:
            return await self._run(enter)
        except BaseException:
            self._room.release(owner)
            raise

    async def _wait_for_place(self, owner: str, seconds: float) -> None:
        granted = self._room.ask(owner)
        deadline = time.monotonic() + seconds
        try:
            while not granted.done():
                # Leases run out while we wait, and nobody else may look.
                await self._run(self._table.expire)
                left = deadline - time.monotonic()
                await asyncio.wait([asyncio.wrap_future(granted)], timeout=min(EXPIRY_SECONDS, max(0.0, left)))
                if left <= 0 and not granted.done():
                    raise SandboxFull(
                        f"sandbox: all {self._config.max_sessions} sessions stayed open for {seconds:g} s; close some, "
                        f"wait for leases to run out ({self._config.lease_seconds:g} s), or raise sandbox.max_sessions"
                    )
        except BaseException:
            self._room.give_up(owner, granted)
            raise

    def _record(self, owner: str, lease: str, task: Task, call: ToolCall, result: ToolResult) -> None:
        for recorder in self._recorders:
            recorder(owner, lease, task, call, result)

    async def _run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        # A pool of its own: isolated code holds a thread until it ends, and the loop's default pool has only a few.
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, function, *arguments)

    def _work(self, function: Callable[..., Result], *arguments: Any) -> Result:
        number = next(self._numbers)
        self._at_work[number] = time.monotonic()
        try:
            return function(*arguments)
        finally:
            del self._at_work[number]
