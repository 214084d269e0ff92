"""A session of a task from a file: the tools' own session, with the task's gold calls, user and checker around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tool_sandbox.errors import InvalidToolset
from tool_sandbox.jsonl.gold import GoldCalls, call_key
from tool_sandbox.jsonl.sources import FunctionSession
from tool_sandbox.session import Forkable, Session
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, Progress, ToolCall, ToolResult, ToolSpec
from tool_sandbox.verdict import solved


@dataclass(frozen=True, slots=True)
class Script:
    """What a session needs to know of its task."""

    task: Task
    specs: Mapping[str, ToolSpec]
    """Of the tools offered, by name."""
    turns: tuple[str, ...]
    """What the user says after the prompt."""
    gold: tuple[str, ...]
    """Keys of the gold calls; empty where the task has none."""
    checker: Callable[..., object] | None
    """Called with the final state and the answer; what it gives is checked."""


class JsonlSession:
    """One trajectory on one task: a `Session`, a `Dialogue` and `Judged`."""

    def __init__(self, script: Script, inner: Session) -> None:
        """Takes `inner` over: it is closed with this session."""
        self._script = script
        self._inner = inner
        self._gold = GoldCalls(script.gold)
        self._spoken = 0

    def call(self, call: ToolCall) -> CallOutcome:
        """Run one call; progress is in gold calls, or the inner session's own where the task has none."""
        before = self._gold.remaining
        outcome = self._run(call)
        if not self._script.gold or outcome.result.status.is_infrastructure:
            return outcome
        if outcome.result.status is CallStatus.OK:
            self._observe(call)
        return CallOutcome(outcome.result, Progress(before, self._gold.remaining))

    def state_hash(self) -> str | None:
        return self._inner.state_hash()

    def user_turn(self) -> str | None:
        """The next scripted turn; None after the last."""
        if self._spoken == len(self._script.turns):
            return None
        self._spoken += 1
        return self._script.turns[self._spoken - 1]

    def verdict(self, answer: str | None) -> bool | None:
        """By the checker; else by the answer or the state that the task asks for; else by the gold calls.

        Raises:
            InvalidToolset: the checker gave something other than a verdict.
        """
        truth = self._script.task.ground_truth
        if self._script.checker is not None:
            return self._checked(self._script.checker, answer)
        if truth.answer is not None or truth.state_hash is not None:
            return solved(truth, answer, self.state_hash())
        return self._gold.remaining == 0

    def close(self) -> None:
        self._inner.close()

    def _run(self, call: ToolCall) -> CallOutcome:
        if call.name not in self._script.specs:
            return CallOutcome(ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:40]}"))
        return self._inner.call(call)

    def _observe(self, call: ToolCall) -> None:
        # Arguments that are nested too deep to be written down are no gold call, and no reason to end the run.
        with contextlib.suppress(ValueError, RecursionError):
            self._gold.observe(call_key(self._script.specs[call.name], call.arguments))

    def _checked(self, checker: Callable[..., object], answer: str | None) -> bool | None:
        state = self._inner.state if isinstance(self._inner, FunctionSession) else None
        verdict = checker(state, answer)
        if verdict is None or isinstance(verdict, bool):
            return verdict
        raise InvalidToolset(
            f"task {self._script.task.id!r}: its checker gave {verdict!r}; expected True, False, or None for undecided"
        )


class ForkableJsonlSession(JsonlSession):
    """A session whose tools can be copied by value; its user and its gold calls are copied with them."""

    def fork(self) -> ForkableJsonlSession:
        """A session of its own that continues from here."""
        assert isinstance(self._inner, Forkable)
        other = ForkableJsonlSession(self._script, self._inner.fork())
        other._gold = self._gold.copy()
        other._spoken = self._spoken
        return other


def open_session(script: Script, inner: Session) -> JsonlSession:
    """The session around `inner`, forkable where that is."""
    return (ForkableJsonlSession if isinstance(inner, Forkable) else JsonlSession)(script, inner)
