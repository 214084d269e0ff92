"""How far a session is from answering a long chain: a shortest path over the values of its world.

Owns `ChainTracker`. On level L4 every tool on offer has one parameter and only reads, so a call leads from a value that
is known to one that may be new, and the exact distance is a breadth-first search, whatever was called before. The other
levels have calls with two parameters and writes; their distance is `progress.Tracker`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tool_sandbox.ledger.faults import Faults
from tool_sandbox.ledger.plans import Fact
from tool_sandbox.ledger.progress import Move
from tool_sandbox.ledger.search import FactFinder
from tool_sandbox.ledger.tools import Value
from tool_sandbox.ledger.world import World


class ChainTracker:
    """The distance of one session. Mutable: `observe` it after every successful call, in order."""

    def __init__(self, world: World, told: Iterable[Value], answer: Value, tools: Collection[str]) -> None:
        """`told`: values that the prompt names. Raises `ValueError` where no calls lead from them to the answer."""
        self._finder = FactFinder(world, tools)
        self._known = tuple(told)
        self._answer = answer
        self._path = self._shortest()

    @property
    def remaining(self) -> int:
        """Fewest calls after which the answer is known."""
        return len(self._path)

    def observe(self, tool: str, values: tuple[Value, ...], result: Value) -> None:
        """Take note of a call that succeeded. Whoever called with a value has it, wherever it came from."""
        learned = tuple(value for value in (*values, result) if value not in self._known)
        if learned:
            self._known += learned
            self._path = self._shortest()

    def next_move(self) -> Move | None:
        """A call that brings the task one nearer; None where the answer is known."""
        return Move(self._path[0].tool, self._path[0].values) if self._path else None

    def fork(self, world: World, faults: Faults) -> ChainTracker:
        """An equal tracker that goes its own way. Nothing changes a world here, so the finder's results hold in both."""
        twin = object.__new__(ChainTracker)
        twin._finder, twin._known = self._finder, self._known
        twin._answer, twin._path = self._answer, self._path
        return twin

    def _shortest(self) -> tuple[Fact, ...]:
        path = shortest_chain(self._finder, self._known, self._answer)
        if path is None:
            raise ValueError(f"the offered tools do not lead to the answer {self._answer!r}")
        return path


def shortest_chain(
    finder: FactFinder, known: Collection[Value], answer: Value, limit: int | None = None
) -> tuple[Fact, ...] | None:
    """The fewest calls of tools with one parameter that lead from known values to the answer, in order.

    None where none of at most `limit` calls do, or where new values end before. Among equally short chains the order of
    the tools and of the known values decides, so that every process finds the same one.
    """
    came_by: dict[Value, Fact] = {}
    frontier, seen = list(known), set(known)
    depth = 0
    while answer not in seen and frontier and depth != limit:
        following: list[Value] = []
        for fact, result in finder.available(frontier):
            if result not in seen:
                seen.add(result)
                following.append(result)
                came_by[result] = fact
        frontier, depth = following, depth + 1
    return _walk_back(came_by, answer) if answer in seen else None


def _walk_back(came_by: dict[Value, Fact], answer: Value) -> tuple[Fact, ...]:
    path: list[Fact] = []
    value = answer
    while value in came_by:
        path.append(came_by[value])
        value = came_by[value].values[0]
    return tuple(reversed(path))
