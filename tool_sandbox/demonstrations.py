"""Demonstrations: what a scripted policy did on a task, for warm starts and for baselines.

Owns the `Policy` protocol, `Past` with what it is made of, and `Demonstration`. Works with any toolset. In a dialogue
every turn of the user is a task of its own to the policy, so that a policy need not know that there are dialogues.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from tool_sandbox.session import Dialogue, Judged, Session, Toolset
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, ToolCall
from tool_sandbox.verdict import solved

TURN = "turn"
"""Key of a task's payload under which a policy finds how often the user has spoken on; absent at first."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call and what came of it."""

    call: ToolCall
    outcome: CallOutcome


@dataclass(frozen=True, slots=True)
class UserTurn:
    """An answer that was not the last, and what the user said to it."""

    calls: int
    """Calls of the demonstration before it."""
    answer: str
    said: str


@dataclass(frozen=True, slots=True)
class Past:
    """What was done in a session since it was opened."""

    history: tuple[Exchange, ...] = ()
    turns: tuple[UserTurn, ...] = ()

    @property
    def since_user_spoke(self) -> tuple[Exchange, ...]:
        """What a policy sees of it."""
        return self.history[self.turns[-1].calls if self.turns else 0 :]

    def called(self, call: ToolCall, outcome: CallOutcome) -> Past:
        """With one more call."""
        return Past((*self.history, Exchange(call, outcome)), self.turns)

    def answered(self, answer: str, said: str) -> Past:
        """With an answer that the user replied to."""
        return Past(self.history, (*self.turns, UserTurn(len(self.history), answer, said)))

    def task_now(self, task: Task) -> Task:
        """The task as a policy sees it after this: what the user said last is its prompt."""
        if not self.turns:
            return task
        return replace(task, prompt=self.turns[-1].said, payload={**task.payload, TURN: len(self.turns)})


class Policy(Protocol):
    """A scripted agent. Pure: the same task and history give the same action.

    When the user of a dialogue speaks on, the task's prompt becomes what was said, its payload tells under `TURN` how
    often that has happened, and the history begins anew.
    """

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
    turns: tuple[UserTurn, ...] = ()
    """Where the user spoke on, in order."""


def check_noise(policy: str, noise: float) -> None:
    """Raises `ValueError` where the noise of the named policy is no probability."""
    if not 0 <= noise <= 1:
        raise ValueError(f"{policy}: noise {noise}; expected a probability in [0, 1]")


def demonstrate(toolset: Toolset, task: Task, policy: Policy, max_steps: int) -> Demonstration:
    """Run `policy` on a fresh session for at most `max_steps` turns; every answer takes one of them."""
    session = toolset.open(task)
    try:
        past, answer = play_on(session, task, policy, max_steps, Past())
        checked = session.verdict(answer) if isinstance(session, Judged) else None
        verdict = solved(task.ground_truth, answer, session.state_hash(), checked)
    finally:
        session.close()
    actions = tuple(exchange.call for exchange in past.history)
    outcomes = tuple(exchange.outcome for exchange in past.history)
    return Demonstration(task, actions, outcomes, answer, verdict, past.turns)


def play_on(session: Session, task: Task, policy: Policy, max_steps: int, past: Past) -> tuple[Past, str | None]:
    """Let `policy` go on in a session that `past` led to where it is, for at most `max_steps` turns.

    Returns all that was done, with the past, and the final answer; None where the turns were used up.
    """
    for _ in range(max_steps):
        action = policy.act(past.task_now(task), past.since_user_spoke)
        if isinstance(action, ToolCall):
            past = past.called(action, session.call(action))
            continue
        said = session.user_turn() if isinstance(session, Dialogue) else None
        if said is None:
            return past, action
        past = past.answered(action, said)
    return past, None
