"""How far a session is from the end of a chain: a cheapest path over the values of its world.

Owns `ChainTracker`. On the levels of chains every tool on offer has one parameter and only reads, so a call leads from a
value that is known to one that may be new, and the exact distance is Dijkstra's, whatever was called before. The other
levels have calls with two parameters and writes; their distance is `progress.Tracker`'s.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable

from tool_sandbox.ledger.faults import Faults
from tool_sandbox.ledger.plans import Fact
from tool_sandbox.ledger.progress import Move
from tool_sandbox.ledger.search import FactFinder
from tool_sandbox.ledger.tools import Value
from tool_sandbox.ledger.variants import LOGIN
from tool_sandbox.ledger.world import World

Chain = tuple[int, tuple[Fact, ...]]
"""Calls that a chain takes, and its facts in order."""


class ChainTracker:
    """The distance of one session. Mutable: `observe` it after every call that told a result, in order."""

    def __init__(
        self, world: World, told: Iterable[Value], answer: Value, tools: Collection[str], faults: Faults
    ) -> None:
        """`told`: values that the prompt names. `faults` is the live state, seen but never changed."""
        self._finder = FactFinder(world, tools)
        self._known = tuple(told)
        self._answer = answer
        self._faults = faults

    @property
    def remaining(self) -> int:
        """Fewest calls after which the answer is known."""
        return self._cheapest()[0]

    def observe(self, tool: str, values: tuple[Value, ...], result: Value) -> None:
        """Take note of a call that succeeded. Whoever called with a value has it, wherever it came from."""
        self._known += tuple(value for value in (*values, result) if value not in self._known)

    def next_move(self) -> Move | None:
        """A call that brings the task one nearer; None where the answer is known."""
        _, chain = self._cheapest()
        if not chain:
            return None
        if self._faults.is_behind_login(chain[0].tool):
            return Move(LOGIN.spec.name, ())
        return Move(chain[0].tool, chain[0].values, self._faults.next_cursor(chain[0]))

    def fork(self, world: World, faults: Faults) -> ChainTracker:
        """An equal tracker that goes its own way. Nothing changes a world here, so the finder's results hold in both."""
        twin = object.__new__(ChainTracker)
        twin._finder, twin._known, twin._answer, twin._faults = self._finder, self._known, self._answer, faults
        return twin

    def _cheapest(self) -> Chain:
        """The cheapest chain: a closed tool is opened only where going round it takes longer."""
        closed = self._faults.closed
        through = self._search(frozenset(), None)
        if through is None:
            raise ValueError(f"the offered tools do not lead to the answer {self._answer!r}")
        if closed.isdisjoint(fact.tool for fact in through[1]):
            return through
        round_it = self._search(closed, through[0] + 1)
        return round_it or (through[0] + 1, through[1])

    def _search(self, avoid: frozenset[str], limit: int | None) -> Chain | None:
        """The chain of the fewest calls without the tools to avoid; None where more than `limit` would be needed.

        Among equally cheap chains the order of tools and known values decides, so that every process finds the same.
        """
        order = itertools.count()
        queue: list[tuple[int, int, Value, Fact | None]] = [(0, next(order), value, None) for value in self._known]
        came_by: dict[Value, Fact | None] = {}
        while queue:
            calls, _, value, fact = heapq.heappop(queue)
            if value in came_by:
                continue
            if limit is not None and calls > limit:
                return None
            came_by[value] = fact
            if value == self._answer:
                return calls, _walk_back(came_by, value)
            for step, result in self._finder.available([value]):
                if step.tool not in avoid and result not in came_by:
                    heapq.heappush(queue, (calls + self._faults.calls_for(step), next(order), result, step))
        return None


def _walk_back(came_by: dict[Value, Fact | None], value: Value) -> tuple[Fact, ...]:
    chain: list[Fact] = []
    while (fact := came_by[value]) is not None:
        chain.append(fact)
        value = fact.values[0]
    return tuple(reversed(chain))
