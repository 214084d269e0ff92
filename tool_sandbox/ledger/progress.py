"""How far a session is from solving its task: the exact minimum number of calls still needed.

Owns `Tracker`. A question is as far as there are facts of its call graph missing; knowing a result makes all below it
needless. No other way is as short, but whoever wanders off may come upon one, which is not looked for here (it is in
`chains`). A target state is as far as the writes that every touched row still needs, plus the facts that these writes
need. A faulty tool adds the calls that `Faults` says. Distances are capped at `lost`, which also stands for states from
which no offered tool leads back.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from tool_sandbox.ledger.faults import Faults
from tool_sandbox.ledger.plans import EvaluatedCall, Fact
from tool_sandbox.ledger.tools import NOTABLE, STATUS_MOVES, TOOLS, Value
from tool_sandbox.ledger.variants import LOGIN
from tool_sandbox.ledger.world import World
from tool_sandbox.tools import ToolCall

LOST_MARGIN = 3
"""A session that is lost counts as this many calls beyond the task's own minimum."""

RowState = tuple[str | bool, int]
"""What matters of a row: (status, 0 if the note is right else 1), or (frozen, sign of the balance still missing)."""


@dataclass(frozen=True, slots=True)
class Move:
    """A call to make, by the plain name of its tool."""

    tool: str
    values: tuple[Value, ...]
    cursor: str = ""
    """Where to go on in a list; empty at its start, and for every other tool."""


class Tracker:
    """The distance of one session. Mutable: `observe` it after every successful call, in order."""

    def __init__(
        self,
        calls: tuple[EvaluatedCall, ...],
        target: World | None,
        world: World,
        tools: Collection[str],
        faults: Faults,
    ) -> None:
        """`target` is the state to reach; None for a question. `tools`: plain names of those on offer.

        `world` and `faults` are the live state, seen but never changed.
        """
        self._calls = calls
        self._target = target
        self._world = world
        self._tools = frozenset(tools)
        self._faults = faults
        self._known: set[int] = set()
        self.lost = self._distance(cap=None) + LOST_MARGIN

    @property
    def remaining(self) -> int:
        """Fewest calls that still solve the task, at most `lost`."""
        return self._distance(cap=self.lost)

    def fork(self, world: World, faults: Faults) -> Tracker:
        """An equal tracker over `world` and `faults`, which are copies of the live state."""
        twin = copy.copy(self)
        twin._world, twin._faults, twin._known = world, faults, set(self._known)
        return twin

    def observe(self, tool: str, values: tuple[Value, ...], result: Value) -> None:
        """Take note of a call that succeeded, and told its result."""
        fact = Fact.of(tool, values)
        for index, call in enumerate(self._calls):
            if call.fact == fact:
                self._known.add(index)
                if not TOOLS[tool].spec.read_only:
                    # Whoever wrote with a value has it, wherever it came from.
                    self._known.update(call.needs)

    def next_move(self) -> Move | None:
        """A call that brings the task one nearer; None where nothing is left to do or nothing helps."""
        missing = self._missing()
        if missing:
            first = self._calls[min(missing)]
            return self._through(Move(first.tool, first.values, self._faults.next_cursor(first.fact)))
        writes = (self._next_write(*row) for row in self._rows())
        return next((self._through(write) for write in writes if write is not None), None)

    def _through(self, move: Move) -> Move:
        """The move, or the login that it needs first."""
        return Move(LOGIN.spec.name, ()) if self._faults.is_behind_login(move.tool) else move

    def _distance(self, cap: int | None) -> int:
        paths = [self._path(kind, name) for kind, name in self._rows()]
        if any(path is None for path in paths):
            if cap is None:
                raise ValueError(f"the offered tools {sorted(self._tools)} do not lead to the target state")
            return cap
        writes = [tool for path in paths if path is not None for tool in path]
        reads = [self._calls[index].fact for index in self._missing()]
        # No row gets from one state to another by two ways, so a closed tool cannot be gone round.
        toll = self._faults.toll({*writes, *(fact.tool for fact in reads)})
        distance = sum(map(self._faults.calls_for, reads)) + len(writes) + toll
        return distance if cap is None else min(distance, cap)

    def _missing(self) -> set[int]:
        """Reads that are still needed: from what is wanted backwards, stopping at what is known."""
        wanted = self._wanted()
        missing: set[int] = set()
        while wanted:
            index = wanted.pop()
            if index not in self._known and index not in missing:
                missing.add(index)
                wanted.extend(self._calls[index].needs)
        return missing

    def _wanted(self) -> list[int]:
        """Calls whose results something still waits for: the answer, or a row that is not yet as it should be."""
        if self._target is None:
            return [len(self._calls) - 1]
        writes = [call for call in self._calls if not TOOLS[call.tool].spec.read_only]
        return [need for call in writes if self._is_due(call) for need in call.needs]

    def _is_due(self, call: EvaluatedCall) -> bool:
        """Whether what this write of the plan brings about is still to be done."""
        kind, name = TOOLS[call.tool].domains[0], str(call.values[0])
        if (kind, name) not in self._rows():
            return False
        # A note or an amount is wanted only as long as that field is wrong; the row itself until all of it is right.
        value_is_wrong = _row_state(kind, name, self._world, self._target)[1] != 0
        return value_is_wrong if len(call.values) > 1 else True

    def _rows(self) -> list[tuple[str, str]]:
        """Rows that are not yet as they should be."""
        if self._target is None:
            return []
        now, then = self._world.tables(), self._target.tables()
        return [
            (kind, name) for kind in ("order", "account") for name in now[kind] if now[kind][name] != then[kind][name]
        ]

    def _path(self, kind: str, name: str) -> tuple[str, ...] | None:
        assert self._target is not None, "only a target state has rows to repair"
        start = _row_state(kind, name, self._world, self._target)
        goal = _row_state(kind, name, self._target, self._target)
        return shortest_writes(kind, start, goal, self._tools)

    def _next_write(self, kind: str, name: str) -> Move | None:
        path = self._path(kind, name)
        if not path:
            return None
        assert self._target is not None
        now, then = self._world.tables()[kind][name], self._target.tables()[kind][name]
        values: tuple[Value, ...] = (name,)
        if path[0] == "note":
            values = (name, then["note"])
        elif path[0] in ("deposit", "withdraw"):
            values = (name, abs(then["balance"] - now["balance"]))
        return Move(path[0], values)


def planned_call(tool: str, values: tuple[Value, ...]) -> ToolCall:
    """A call from a tool's values in the order of its parameters."""
    return ToolCall("", tool, dict(zip(TOOLS[tool].parameters, values, strict=True)))


def _row_state(kind: str, name: str, world: World, target: World | None) -> RowState:
    assert target is not None, "the state of a row is measured against a target"
    now, then = world.tables()[kind][name], target.tables()[kind][name]
    if kind == "order":
        return now["status"], int(now["note"] != then["note"])
    missing = then["balance"] - now["balance"]
    return now["frozen"], (missing > 0) - (missing < 0)


@cache
def shortest_writes(kind: str, start: RowState, goal: RowState, tools: frozenset[str]) -> tuple[str, ...] | None:
    """The fewest writes that lead one row from `start` to `goal`; None where the offered tools do not."""
    paths: dict[RowState, tuple[str, ...]] = {start: ()}
    queue = [start]
    for state in queue:
        if state == goal:
            return paths[state]
        moves = _order_moves(state) if kind == "order" else _account_moves(state)
        for tool, following in moves:
            if tool in tools and following not in paths:
                paths[following] = (*paths[state], tool)
                queue.append(following)
    return None


def _order_moves(state: RowState) -> list[tuple[str, RowState]]:
    status, wrong_note = state
    moves: list[tuple[str, RowState]] = [
        (tool, (given, wrong_note)) for tool, (required, given) in STATUS_MOVES.items() if required == status
    ]
    return [*moves, ("note", (status, 0))] if status in NOTABLE else moves


def _account_moves(state: RowState) -> list[tuple[str, RowState]]:
    frozen, missing = state
    if frozen:
        return [("thaw", (False, missing))]
    return [("deposit", (False, 0))] if missing > 0 else [("withdraw", (False, 0))] if missing < 0 else []
