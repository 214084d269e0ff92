"""Demonstrations: what a scripted policy did on a task, for warm starts and for baselines.

Owns the `Policy` protocol, `Exchange` and `Demonstration`. Works with any toolset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tool_sandbox.session import Session, Toolset
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, ToolCall
from tool_sandbox.verdict import solved


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call and what came of it."""

    call: ToolCall
    outcome: CallOutcome


class Policy(Protocol):
    """A scripted agent. Pure: the same task and history give the same action."""

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        """The next call, or the final answer as text."""
        ...


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One finished run of a scripted policy."""

    task: Task
    actions: tuple[ToolCall, ...]
    outcomes: tuple[CallOutcome, ...]
    """One per action, in order."""
    answer: str | None
    """None when the policy used up its steps."""
    solved: bool | None
    """None where the task has no ground truth."""


def demonstrate(toolset: Toolset, task: Task, policy: Policy, max_steps: int) -> Demonstration:
    """Run `policy` on a fresh session for at most `max_steps` turns; the final answer takes one of them."""
    session = toolset.open(task)
    try:
        history, answer = _run(session, task, policy, max_steps)
        verdict = solved(task.ground_truth, answer, session.state_hash())
    finally:
        session.close()
    actions = tuple(exchange.call for exchange in history)
    return Demonstration(task, actions, tuple(exchange.outcome for exchange in history), answer, verdict)


def _run(session: Session, task: Task, policy: Policy, max_steps: int) -> tuple[tuple[Exchange, ...], str | None]:
    history: tuple[Exchange, ...] = ()
    for _ in range(max_steps):
        action = policy.act(task, history)
        if isinstance(action, str):
            return history, action
        history = (*history, Exchange(action, session.call(action)))
    return history, None
