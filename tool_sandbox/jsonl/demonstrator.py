"""A scripted policy that makes a task's gold calls, in the order of the file, and then answers: for warm starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from tool_sandbox.demonstrations import Exchange
from tool_sandbox.jsonl.gold import call_key
from tool_sandbox.jsonl.lines import GoldCall, TaskLine
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus, ToolCall, ToolSpec

DONE = "done"
"""The answer to a task that asks for a state or for calls: any would do."""


def can_demonstrate(line: TaskLine) -> bool:
    """Whether gold calls lead through the whole task: a checker's wishes and a second user turn are not known."""
    return line.calls is not None and line.checker is None and len(line.script) == 1


@dataclass(frozen=True, slots=True)
class GoldPolicy:
    """Pure: the same task and history give the same action."""

    specs: Mapping[str, ToolSpec]
    noise: float
    """Probability that an error stands before a step."""
    seed: int

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        """The next gold call or the answer; before it, at times, an error: a wrong tool, or a call made again."""
        line = TaskLine.model_validate(task.payload)
        left, erred = self._left(line.calls or (), history)
        if not erred and self._dice(task, len(left)) < self.noise:
            error = self._error(task, left, history)
            if error is not None:
                return error
        return _call(left[0], history) if left else line.answer or DONE

    def _left(self, calls: tuple[GoldCall, ...], history: tuple[Exchange, ...]) -> tuple[list[GoldCall], bool]:
        """The gold calls still to be made, and whether the last call was none of them."""
        left, erred = list(calls), False
        for exchange in history:
            made = self._position(left, exchange)
            erred = made is None
            if made is not None:
                del left[made]
        return left, erred

    def _position(self, left: list[GoldCall], exchange: Exchange) -> int | None:
        call = exchange.call
        if exchange.outcome.result.status is not CallStatus.OK:
            return None
        key = call_key(self.specs[call.name], call.arguments)
        keys = [self._key(each) for each in left]
        return keys.index(key) if key in keys else None

    def _dice(self, task: Task, left: int) -> float:
        """Uniform on [0, 1), by a hash of what it is thrown for."""
        thrown = hashlib.blake2b(f"{self.seed} {task.id} {left}".encode(), digest_size=8).digest()
        return int.from_bytes(thrown, "big") / 2**64

    def _error(self, task: Task, left: list[GoldCall], history: tuple[Exchange, ...]) -> ToolCall | None:
        """The next call to a wrong tool, else an earlier call once more; None where neither can be.

        Of tools that only read, since an error must not make the task unsolvable.
        """
        wrong = [GoldCall(name=name, arguments=left[0].arguments) for name in task.tools if left]
        again = [GoldCall(name=each.call.name, arguments=dict(each.call.arguments)) for each in reversed(history)]
        wanted = {self._key(gold) for gold in left}
        harmless = [gold for gold in wrong if self.specs[gold.name].read_only and self._key(gold) not in wanted]
        repeated = [gold for gold in again if self.specs[gold.name].read_only]
        if harmless:
            return _call(harmless[len(history) % len(harmless)], history)
        return _call(repeated[0], history) if repeated else None

    def _key(self, gold: GoldCall) -> str:
        return call_key(self.specs[gold.name], gold.arguments)


def _call(gold: GoldCall, history: tuple[Exchange, ...]) -> ToolCall:
    return ToolCall(f"call-{len(history)}", gold.name, gold.arguments)
