"""The seam between an episode and the world: sessions, and the toolsets that open them.

Owns the protocols. `Session` is one trajectory's private world: open, call, close. `Toolset` is a factory of tasks and
sessions; third parties add one through the entry-point group `steptool.toolsets` (see `registry`). What only some
worlds can do is a protocol of its own, which a session has or has not: `Dialogue`, `Judged`, `Forkable`; or a toolset:
`FindsTasks`, `PlaysAtRandom`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

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


@runtime_checkable
class Dialogue(Protocol):
    """A session in which a scripted user speaks more than once."""

    def user_turn(self) -> str | None:
        """The model ended its turn: what the user says next. None where the user has nothing more to say."""
        ...


@runtime_checkable
class Judged(Protocol):
    """A session that knows more of the verdict than the ground truth's answer and state hash say."""

    def verdict(self, answer: str | None) -> bool | None:
        """Whether the task is solved, by the toolset's own checker; None where it cannot tell."""
        ...


@runtime_checkable
class Forkable(Protocol):
    """A session that is copied by value. Others are forked by repeating their calls (see `leases`)."""

    def fork(self) -> Session:
        """A session of its own that continues from this state."""
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

        None where nobody can demonstrate; where only some tasks can be, it raises `NoDemonstration` for the others.
        """
        ...

    def open(self, task: Task) -> Session:
        """A fresh session in the task's initial state."""
        ...


@runtime_checkable
class FindsTasks(Protocol):
    """A toolset that makes a task again from its id alone, so that a trajectory can be replayed elsewhere."""

    def find_task(self, task_id: str) -> Task:
        """The task of that id.

        Raises:
            NoSuchTask: there is none.
        """
        ...


@runtime_checkable
class PlaysAtRandom(Protocol):
    """A toolset with a policy that knows the tools and not the way."""

    def random_policy(self, seed: int) -> Policy:
        """Calls offered tools at random, with values that fit them."""
        ...
