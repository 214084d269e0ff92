"""Search over the facts of a world: can anything but the plan solve the task in as few calls?

Consumes a world, the tools on offer and what the prompt tells. `has_rival` rejects tasks and is too slow for anything
else; `FactFinder` also serves the sessions of long chains.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator

from tool_sandbox.ledger.plans import Fact
from tool_sandbox.ledger.tools import TOOLS, Refusal, Value, accepts
from tool_sandbox.ledger.world import World

SEARCH_STATES = 1000
"""Sets of facts looked at before the search gives up. More would cost a sampler more than the task is worth."""
FAULTY_SEARCH_STATES = 300
"""The same where a fault makes the search a call or two deeper, and each set dearer to look at."""


class FactFinder:
    """Results of read-only calls in one world, each computed once."""

    def __init__(self, world: World, tools: Iterable[str]) -> None:
        self._world = world
        self._tools = [TOOLS[name] for name in tools if TOOLS[name].spec.read_only]
        self._results: dict[tuple[str, tuple[Value, ...]], tuple[Fact, Value] | None] = {}
        self._kinds: dict[Value, str] = {}

    def available(self, known: Collection[Value]) -> Iterator[tuple[Fact, Value]]:
        """Every call whose arguments are known and that succeeds, with its result, in the order of tools and values."""
        for tool in self._tools:
            fitting = [[value for value in known if accepts(domain, self._kind(value))] for domain in tool.domains]
            for values in itertools.product(*fitting):
                found = self._result(tool.spec.name, values)
                if found is not None:
                    yield found

    def _kind(self, value: Value) -> str:
        if value not in self._kinds:
            self._kinds[value] = self._world.kind_of(value)
        return self._kinds[value]

    def _result(self, tool: str, values: tuple[Value, ...]) -> tuple[Fact, Value] | None:
        # Kept by tool and values, not by fact: to make a fact costs more than to look one up.
        key = (tool, values)
        if key not in self._results:
            fact = Fact.of(tool, values)
            try:
                self._results[key] = fact, TOOLS[tool].run(self._world, *fact.values)
            except Refusal:
                self._results[key] = None
        return self._results[key]


def has_rival(
    finder: FactFinder,
    told: frozenset[Value],
    goals: frozenset[Value],
    plan: frozenset[Fact],
    calls: Callable[[frozenset[Fact]], int] = len,
    states: int = SEARCH_STATES,
) -> bool:
    """Whether a set of facts that takes no more calls than the plan, other than the plan, makes every goal known.

    `calls` says how many a set takes: at least one for each fact, and more where tools are faulty. Breadth first over
    sets of facts. True also when a round would look at more than so many `states`: such a task is not worth keeping.
    """
    if goals <= told:
        return True
    limit = calls(plan)
    frontier: dict[frozenset[Fact], frozenset[Value]] = {frozenset(): told}
    for size in range(1, limit + 1):
        following: dict[frozenset[Fact], frozenset[Value]] = {}
        for facts, known in frontier.items():
            for fact, result in finder.available(known):
                if fact in facts:
                    continue
                if goals <= known | {result} and facts | {fact} != plan and calls(facts | {fact}) <= limit:
                    return True
                # The last round only looks: nothing is built upon its sets.
                if size < limit and calls(facts | {fact}) < limit:
                    following[facts | {fact}] = known | {result}
        if len(following) > states:
            return True
        frontier = following
    return False
