"""The seam between an episode and the world: sessions, and the toolsets that open them.

Owns two protocols. `Session` is one trajectory's private world: open, call, close. `Toolset` is a factory of tasks and
sessions; third parties add one through the entry-point group `steptool.toolsets` (see `registry`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallOutcome, ToolCall, ToolSpec

if TYPE_CHECKING:
    from tool_sandbox.demonstrations import Policy


class Session(Protocol):
    """One trajectory's private world. Not thread-safe: one trajectory makes one call at a time."""

    def call(self, call: ToolCall) -> CallOutcome:
        """Run one call. The model's errors come back as statuses, never as exceptions."""
        ...

    def state_hash(self) -> str | None:
        """Canonical hash of the state; None where the toolset has no state."""
        ...

    def close(self) -> None:
        """Free what the session holds. Safe to call twice."""
        ...


class Toolset(Protocol):
    """A family of tools together with the tasks that need them."""

    @property
    def name(self) -> str: ...

    def specs(self) -> tuple[ToolSpec, ...]:
        """Every tool of the set; a task offers some of them by name."""
        ...

    def levels(self) -> tuple[str, ...]:
        """Names of the difficulty levels, easiest first."""
        ...

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """The `index`-th task of a split and level: the same arguments give the same task in every process."""
        ...

    def demonstrator(self, noise: float, seed: int) -> Policy | None:
        """A policy for warm starts, each of whose steps is preceded by an error with probability `noise`.

        None where nobody can demonstrate.
        """
        ...

    def open(self, task: Task) -> Session:
        """A fresh session in the task's initial state."""
        ...
