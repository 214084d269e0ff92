"""The way from an episode to the sandboxes: open, call, converse, judge, close; asynchronous throughout.

Owns the `SandboxClient` protocol and `LocalSandbox`, which keeps the sessions in this process. `pool.RaySandboxPool` is
the other implementation; episodes cannot tell them apart.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from tool_sandbox.config import PoolConfig
from tool_sandbox.errors import LeaseLost
from tool_sandbox.leases import SessionTable
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult


class SandboxClient(Protocol):
    """Sessions by lease. One trajectory holds one lease and makes one call at a time."""

    async def open(self, task: Task) -> str:
        """Open a session and return its lease.

        Raises:
            SandboxFull: every session is taken.
            SandboxUnavailable: no sandbox answered before the deadline.
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
    """Sessions in this process: for tests, for evaluation without Ray, and for users who want only the environment."""

    def __init__(self, config: PoolConfig, table: SessionTable | None = None) -> None:
        """`table`: sessions to share with others; None makes an own table."""
        # An empty table is false, and still the one to use.
        self._table = SessionTable(config.max_sessions, config.lease_seconds) if table is None else table

    async def open(self, task: Task) -> str:
        return await asyncio.to_thread(self._table.open, task)

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        try:
            return await asyncio.to_thread(self._table.call, lease, call)
        except LeaseLost as lost:
            return infrastructure_failure(call, str(lost))

    async def state_hash(self, lease: str) -> str | None:
        return await asyncio.to_thread(self._table.state_hash, lease)

    async def user_turn(self, lease: str) -> str | None:
        return await asyncio.to_thread(self._table.user_turn, lease)

    async def verdict(self, lease: str, answer: str | None) -> bool | None:
        return await asyncio.to_thread(self._table.verdict, lease, answer)

    async def close(self, lease: str) -> None:
        await asyncio.to_thread(self._table.close, lease)
