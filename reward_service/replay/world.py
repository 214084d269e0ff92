"""One session of a task, with what was done in it and how far it is from the end.

Owns `World`, the one place where replays touch the sandbox. Synchronous: it belongs on a worker thread, and looks
between two calls whether anybody still waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from reward_service.answers import AnswerMatch, solved
from reward_service.errors import ScorerUnavailable
from reward_service.replay.dependence import Deed
from reward_service.replay.errors import Diverged, NothingToMeasure
from reward_service.replay.recorded import Act, Recorded
from reward_service.texts import MAX_CHARACTERS
from tool_sandbox.demonstrations import Exchange, Past, Policy, play_on
from tool_sandbox.leases import Done, UserTurn, copy_session, open_session
from tool_sandbox.session import Dialogue, Judged, Session
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult

_COMPARED_CHARACTERS = MAX_CHARACTERS - 64
"""Of an observation; the rest is room for the mark that it was cut."""
Pace = Callable[[], None]
"""Called before each step; raises `Abandoned` where nobody waits any more."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a replay ended."""

    solved: bool | None
    """None where nobody knows."""
    remaining: int | None
    """Calls that were still needed; None where the toolset does not count them."""


class World:
    """An open session; a context manager that closes it."""

    def __init__(self, task: Task, session: Session, pace: Pace) -> None:
        """Takes the session over, which must be fresh."""
        self._task = task
        self._session = session
        self._pace = pace
        self._done: tuple[Done, ...] = ()
        self._past = Past()
        self._remaining = task.ground_truth.minimum_calls

    @classmethod
    def open(cls, task: Task, pace: Pace) -> Self:
        """The task's initial state."""
        return cls(task, open_session(task), pace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    @property
    def remaining(self) -> int | None:
        """Calls still needed; None where the toolset does not count them."""
        return self._remaining

    def fork(self) -> World:
        """A world of its own that goes on from here: by value where the toolset can, else by doing all of it again.

        Raises:
            ForkDiverged: doing it again led to another state.
        """
        self._pace()
        other = World(self._task, copy_session(self._session, self._task, self._done), self._pace)
        other._done, other._past, other._remaining = self._done, self._past, self._remaining
        return other

    def do(self, action: ToolCall | str) -> CallOutcome | str:
        """Make a call, or give an answer that is not the last; what came of it, or what the user said.

        Raises:
            ScorerUnavailable: infrastructure lost the call.
        """
        self._pace()
        if isinstance(action, ToolCall):
            return self._call(action)
        self._done = (*self._done, UserTurn())
        said = self._session.user_turn() if isinstance(self._session, Dialogue) else None
        if said is None:
            return ""
        self._past = self._past.answered(action, said)
        return said

    def play_on(self, policy: Policy, max_steps: int) -> str | None:
        """Let `policy` finish the task here, which ends this world; its answer, None without one in `max_steps` turns.

        Raises:
            ScorerUnavailable: infrastructure lost a call.
            NothingToMeasure: the policy cannot go on from here.
        """
        before = len(self._past.history)
        self._past, answer = play_on(self._session, self._task, _Watched(policy, self._pace), max_steps, self._past)
        for exchange in self._past.history[before:]:
            _refuse_lost(exchange.outcome)
        return answer

    def end(self, answer: str | None, match: AnswerMatch) -> End:
        """Whether `answer` solves the task in this state, and what was still needed."""
        checked = self._session.verdict(answer) if isinstance(self._session, Judged) else None
        verdict = solved(self._task.ground_truth, answer, self._session.state_hash(), checked, match)
        return End(verdict, self._remaining)

    def _call(self, call: ToolCall) -> CallOutcome:
        outcome = self._session.call(call)
        _refuse_lost(outcome)
        self._done = (*self._done, call)
        self._past = self._past.called(call, outcome)
        if outcome.progress is not None:
            self._remaining = outcome.progress.after
        return outcome


@dataclass(frozen=True, slots=True)
class _Watched:
    """A policy that stops where nobody waits, and whose errors are told apart from those of the session."""

    policy: Policy
    pace: Pace

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        self.pace()
        try:
            return self.policy.act(task, history)
        except Exception as error:
            # It was written for what it would do itself, and goes on from whatever a model did.
            raise NothingToMeasure(
                f"the continuation policy cannot go on after {len(history)} calls ({type(error).__name__}: {error})"
            ) from error


def reproduce(world: World, recorded: Recorded) -> tuple[Deed, ...]:
    """Do all that was recorded in `world`, and compare what comes back; everything with what came of it.

    Statuses are compared by whether the call ran: those of chat messages are read from their texts.

    Raises:
        Diverged: something else comes back.
    """
    deeds: list[Deed] = []
    for act in recorded.acts:
        came = world.do(act.action)
        if isinstance(came, CallOutcome):
            _refuse_another(act, came.result)
        deeds.append(_deed(act.action, came))
    return tuple(deeds)


def _deed(action: ToolCall | str, came: CallOutcome | str) -> Deed:
    arguments = action.arguments if isinstance(action, ToolCall) else None
    return Deed(arguments, came if isinstance(came, str) else came.result.content, isinstance(action, ToolCall))


def _refuse_another(act: Act, result: ToolResult) -> None:
    same_text = act.observation is None or _compared(act.observation) == _compared(result.content)
    if (act.status is CallStatus.OK) is not (result.status is CallStatus.OK) or not same_text:
        raise Diverged(f"the replay of step {act.step} ends {result.status} and does not give what was recorded")


def _compared(text: str) -> str:
    """What the contract can carry of an observation: what UTF-8 cannot say is replaced, and the end may be cut."""
    return text.encode("utf-8", "replace").decode()[:_COMPARED_CHARACTERS]


def _refuse_lost(outcome: CallOutcome) -> None:
    if outcome.result.status.is_infrastructure:
        raise ScorerUnavailable(f"replay: a call was lost ({outcome.result.content[:200]})")
