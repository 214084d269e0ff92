"""A session of one dialogue: calls by name, the scripted user, the distance after every call, the verdict.

As in the package, a function that the task does not offer, or not yet, runs all the same when the model calls it: the
ground truth itself does so once (`multi_turn_miss_func_49`).
"""

from __future__ import annotations

import copy
import json
import time

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.bfcl.documents import callable_specs, tool_specs
from tool_sandbox.bfcl.obligations import Obligations
from tool_sandbox.bfcl.package import Entry, words_for_added_functions
from tool_sandbox.bfcl.world import World
from tool_sandbox.tools import CallOutcome, CallStatus, Progress, ToolCall, ToolResult


class BfclSession:
    """A `Session` that is a `Dialogue`, `Judged` and `Forkable`. In-process and deterministic but for its seconds."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._turn = 0
        self._world = World(entry)
        self._obligations = Obligations(entry, self._world)

    def call(self, call: ToolCall) -> CallOutcome:
        """Run one call and measure what it did to the distance."""
        before = self._obligations.remaining
        wall, cpu = time.perf_counter(), time.thread_time()
        status, content, recorded = self._run(call)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        self._obligations.observe(call, recorded)
        result = ToolResult(call.id, status, content, cpu_seconds=cpu, wall_seconds=wall)
        return CallOutcome(result, Progress(before, self._obligations.remaining))

    def state_hash(self) -> str:
        """Of the tool classes and of the place in the dialogue."""
        return f"{self._turn}:{self._world.hash()}"

    def user_turn(self) -> str | None:
        """What the user says next, and the documents of the functions that come with it."""
        if self._turn == len(self._entry.turns) - 1:
            return None
        self._turn += 1
        self._obligations.end_turn()
        added = self._entry.added.get(self._turn, ())
        said = [words_for_added_functions(_documents(added))] if added else []
        said += [text for text in [self._entry.turns[self._turn]] if text is not None]
        return "\n".join(said)

    def verdict(self, answer: str | None) -> bool:
        """Whether every turn was done when the model ended it, by the rules of the package; `answer` does not count."""
        return self._obligations.solved

    def fork(self) -> BfclSession:
        return copy.deepcopy(self)

    def close(self) -> None:
        """Nothing to free: the world goes with the session."""

    def _run(self, call: ToolCall) -> tuple[CallStatus, str, str | None]:
        """Status, what the model is told, and the tool's own text; None where no tool ran."""
        if not self._world.has(call.name):
            return CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:40]}", None
        complaint = check_arguments(callable_specs()[call.name], call)
        if complaint is not None:
            return CallStatus.INVALID_ARGUMENTS, invalid_arguments(call, complaint).content, None
        text, worked = self._world.call(call.name, call.arguments)
        return CallStatus.OK if worked else CallStatus.TOOL_ERROR, text, text


def _documents(names: tuple[str, ...]) -> str:
    return json.dumps([tool_specs()[name].openai_function() for name in names])
