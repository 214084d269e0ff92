"""The seam between a tool and the place where it runs.

Owns two protocols. A `Sandbox` is one tier: the place where the calls of one `Trust` run; an actor holds one of each
kind that its tools need. A `SandboxSession` is what one trajectory holds there. Toolsets put their sessions together
from these and from state of their own; one test suite runs over every tier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tool_sandbox.tools import IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session at one step, as data: it may be kept, sent to another actor, and continued any number of times."""

    data: bytes
    """Opaque to all but the tier that made it."""
    state_hash: str
    """Of the session when it was taken; a fork that does not reach it is refused."""


@dataclass(frozen=True, slots=True)
class CodeTool:
    """A tool that is a program: a call becomes Python source, and what that prints is the result."""

    spec: ToolSpec
    source: Callable[[ToolCall], str]
    """The program of a call whose arguments fit the schema."""


class SandboxSession(Protocol):
    """One trajectory's place in a tier. Not thread-safe: one trajectory makes one call at a time."""

    def call(self, call: ToolCall) -> ToolResult:
        """Run one call within its budget. What the model did wrong comes back as a status, never as an exception.

        Raises:
            LeaseLost: the session was closed.
        """
        ...

    def state_hash(self) -> str:
        """Canonical hash of what later calls can see; equal for equal histories of deterministic calls."""
        ...

    def snapshot(self) -> Snapshot:
        """The session as it is now."""
        ...

    def close(self) -> None:
        """Free what the session holds. Safe to call twice."""
        ...


class Sandbox(Protocol):
    """One tier. Safe to use from many threads."""

    @property
    def trust(self) -> Trust:
        """The tools that run here."""
        ...

    @property
    def level(self) -> IsolationLevel:
        """What stands between a call and the machine."""
        ...

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools that sessions of this tier can run."""
        ...

    def open(self) -> SandboxSession:
        """A fresh session.

        Raises:
            SandboxFull: every session is taken.
            SandboxUnavailable: none came up before the deadline.
        """
        ...

    def fork(self, snapshot: Snapshot) -> SandboxSession:
        """A session of its own that continues where the snapshot was taken.

        Raises:
            ForkDiverged: the calls were repeated and led to another state.
        """
        ...

    def close(self) -> None:
        """End every session and process of the tier. Safe to call twice."""
        ...
