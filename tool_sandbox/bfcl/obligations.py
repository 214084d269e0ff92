"""How far a dialogue is from its ground truth, in calls, and whether it is solved.

Owns `Obligations`. The package calls a turn done where every result of its ground-truth calls is among the results of
the model so far, in any order, and every public attribute of the tool classes is as those calls leave it. From this the
remaining distance is defined:

    remaining = calls of this turn that are still owed
              + public attributes that are not as the calls already made should have left them
              + calls of later turns
              + what earlier turns left undone when the model ended them, which can never be made up

A ground-truth call is owed until a call of this turn gives its result; one that changes nothing is not owed either
where an earlier turn gave its result. The distance of a turn that the package would call done is 0, and that of one
that it would not is at least 1, so that 0 remain at the end exactly where the dialogue is solved. Whoever follows the
ground truth comes nearer by exactly one with each call that is owed; a repetition changes nothing; a wrong write takes
one away for each attribute that it spoils, and gives it back when repaired. Only calls are measured: what changes when
the user speaks on is no step's merit.

The number of ground-truth calls is how the benchmark's authors do it, not proved to be the fewest: where a shorter way
exists, a call may bring the task nearer by more than one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from tool_sandbox.bfcl.calls import parse_call
from tool_sandbox.bfcl.documents import tool_specs
from tool_sandbox.bfcl.package import Entry, entry
from tool_sandbox.bfcl.world import World
from tool_sandbox.tools import ToolCall


@dataclass(frozen=True, slots=True)
class TruthCall:
    """One ground-truth call and what came of it."""

    call: ToolCall
    result: str
    writes: bool
    """Whether it changed anything that later calls can see."""

    def is_made_by(self, call: ToolCall) -> bool:
        """Whether `call` is the same one."""
        return (self.call.name, self.call.arguments) == (call.name, call.arguments)


TruthTurn = tuple[TruthCall, ...]


@cache
def ground_truth(entry_id: str) -> tuple[TruthTurn, ...]:
    """The ground truth of a dialogue, turn by turn, played once in a world of its own."""
    dialogue = entry(entry_id)
    world = World(dialogue)
    return tuple(
        tuple(_played(world, text, f"{turn}/{index}") for index, text in enumerate(calls))
        for turn, calls in enumerate(dialogue.ground_truth)
    )


def _played(world: World, text: str, id: str) -> TruthCall:
    call = parse_call(text, tool_specs(), id)
    before = world.hash()
    result, _ = world.call(call.name, call.arguments)
    return TruthCall(call, result, writes=world.hash() != before)


class Obligations:
    """What one session still owes. Mutable: `observe` every call and every end of a turn, in order."""

    def __init__(self, entry: Entry, world: World) -> None:
        """`world` is the session's own, seen but never changed."""
        self._entry = entry
        self._world = world
        self._turns = ground_truth(entry.id)
        self._results: Counter[str] = Counter()
        self._missed = 0
        self._begin(0)

    @property
    def remaining(self) -> int:
        """Calls still owed, as the module defines them."""
        return self._missed + self._here + self._later

    @property
    def solved(self) -> bool:
        """Whether the package's checker would pass the dialogue if it ended now."""
        return not self._missed and self._turn == len(self._turns) - 1 and self._is_done()

    def observe(self, call: ToolCall, result: str | None) -> None:
        """Take note of a call of this turn; `result` is the text that the tool gave, None where it never ran."""
        self._calls += 1
        if result is not None:
            self._results[result] += 1
            self._settle(call, result)
        self._here = self._measure()

    def end_turn(self) -> None:
        """The model has nothing to add to this turn, and the next one begins."""
        if not self._is_done():
            self._missed += self._here
        self._begin(self._turn + 1)

    def _begin(self, turn: int) -> None:
        self._turn = turn
        self._calls = 0
        self._later = sum(len(owed) for owed in self._turns[turn + 1 :])
        self._made: set[int] = set()
        unspent = self._results.copy()
        for index, owed in enumerate(self._turns[turn]):
            if not owed.writes and unspent[owed.result]:
                unspent[owed.result] -= 1
                self._made.add(index)
        self._reference = self._world_after(self._made)
        self._here = self._measure()

    def _settle(self, call: ToolCall, result: str) -> None:
        """Strike off the ground-truth call that this result belongs to, if there is one."""
        turn = self._turns[self._turn]
        owed = [index for index, truth in enumerate(turn) if index not in self._made and truth.result == result]
        if not owed:
            return
        index = next((index for index in owed if turn[index].is_made_by(call)), owed[0])
        in_order = all(made < index for made in self._made if turn[made].writes)
        self._made.add(index)
        if turn[index].writes and in_order:
            self._reference.call(turn[index].call.name, turn[index].call.arguments)
        elif turn[index].writes:
            self._reference = self._world_after(self._made)

    def _measure(self) -> int:
        """The distance of this turn alone."""
        turn = self._turns[self._turn]
        spoiled = self._world.difference(self._reference)
        if not turn:
            # The package looks at no state here, but at the end of the next turn that owes something.
            return spoiled if self._later else 0
        return 0 if self._is_done() else max(1, len(turn) - len(self._made) + spoiled)

    def _is_done(self) -> bool:
        """Whether the package would call this turn done."""
        turn = self._turns[self._turn]
        if not turn:
            return True
        if not self._calls or Counter(truth.result for truth in turn) - self._results:
            return False
        everything = range(len(turn))
        target = self._reference if self._made.issuperset(everything) else self._world_after(everything)
        return self._world.difference(target) == 0

    def _world_after(self, made: Collection[int]) -> World:
        """The world as all earlier turns and these calls of this one leave it; mere reads are left out."""
        world = World(self._entry)
        here = (truth for index, truth in enumerate(self._turns[self._turn]) if index in made)
        for truth in (*(truth for turn in self._turns[: self._turn] for truth in turn), *here):
            if truth.writes:
                world.call(truth.call.name, truth.call.arguments)
        return world
