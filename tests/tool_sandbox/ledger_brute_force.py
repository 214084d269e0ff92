"""The fewest calls that solve a ledger task, found by trying everything on forks of a real session.

Knows nothing of call graphs, distances or faults: only what the prompt and the observations say.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.session import LedgerSession
from tool_sandbox.ledger.setting import restore
from tool_sandbox.ledger.tools import Value, accepts
from tool_sandbox.ledger.variants import VARIANTS
from tool_sandbox.ledger.world import World
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus, ToolCall


@dataclass(frozen=True)
class Player:
    """A session and what whoever plays it has read. An argument may be anything told, observed or used before."""

    task: Task
    world: World
    session: LedgerSession
    known: tuple[Value, ...]
    cursors: frozenset[tuple[str, Value, str]] = frozenset()
    """(tool, row, cursor that a page named)."""
    happened: frozenset[str] = frozenset()
    """Refusals and logins, which change what a tool does next."""

    def after(self, call: ToolCall) -> Player:
        """The player one call later; this one is as it was."""
        session = self.session.fork()
        result = session.call(call).result
        variant = VARIANTS[call.name]
        if result.status is not CallStatus.OK or not variant.parameters:
            happened = self.happened | {f"{call.name}: {result.content}"}
            return Player(self.task, self.world, session, self.known, self.cursors, happened)
        values = variant.values(call.arguments)
        if result.content.startswith("not here, cursor "):
            cursors = self.cursors | {(call.name, values[0], result.content.rpartition(" ")[2])}
            return Player(self.task, self.world, session, self.known, cursors, self.happened)
        told: Value = int(result.content) if result.content.isdigit() else result.content
        known = tuple(dict.fromkeys([*self.known, *values, told]))
        return Player(self.task, self.world, session, known, self.cursors, self.happened)

    def is_done(self) -> bool:
        truth = self.task.ground_truth
        if truth.state_hash is not None:
            return truth.state_hash == self.session.state_hash()
        return truth.answer in map(str, self.known)

    def calls(self) -> Iterator[ToolCall]:
        """Every call that could be made now by somebody who does not guess."""
        for name in self.task.tools:
            variant = VARIANTS[name]
            fitting = [[v for v in self.known if accepts(d, self.world.kind_of(v))] for d in variant.tool.domains]
            for values in itertools.product(*fitting):
                yield variant.call(values)
                if variant.is_list:
                    yield from (variant.call(values, c) for tool, row, c in self.cursors if (tool, row) == (name, values[0]))

    def state(self) -> object:
        """Equal for players to whom the same calls do the same."""
        return self.session.state_hash(), frozenset(self.known), self.cursors, self.happened


def open_player(task: Task, session: LedgerSession) -> Player:
    """Somebody who has read the prompt. An empty note is known: it may be needed to put a row right."""
    constants = [constant.value for constant in Plan.from_json(task.payload["plan"]).constants]
    blank = [""] if {"note", "annotate"} & set(task.tools) else []
    return Player(task, restore(task.payload).world, session, (*constants, *blank))


def fewest_calls(player: Player, limit: int) -> int | None:
    """Fewest calls after which the task is solved; None where more than `limit` are needed."""
    frontier, seen = [player], {player.state()}
    for depth in range(limit + 1):
        if any(one.is_done() for one in frontier):
            return depth
        following: list[Player] = []
        for one in frontier if depth < limit else []:
            for call in one.calls():
                after = one.after(call)
                if after.state() not in seen:
                    seen.add(after.state())
                    following.append(after)
        frontier = following
    return None
