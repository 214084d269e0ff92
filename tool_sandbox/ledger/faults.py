"""Tools that do not simply work: one transient error, a refusal until login, a list that gives one page at a time.

Owns `Fault`, which a task carries, and `Faults`, what a session has met of it so far. A fault changes how many calls a
fact takes and never what the fact is. The state is a few plain values: it is copied with the session.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tool_sandbox.ledger.plans import EvaluatedCall, Fact
from tool_sandbox.ledger.splits import stable_hash
from tool_sandbox.ledger.tools import TOOLS, Refusal, Value
from tool_sandbox.ledger.variants import LOGIN, MISS, is_listable
from tool_sandbox.ledger.world import World

PAGE_ROWS = 3
"""Rows that one page of a list looks through."""


class FaultKind(StrEnum):
    """What is wrong with a tool."""

    TRANSIENT = "transient"
    """Its first call fails, whatever the arguments; every later one works."""
    LOGIN = "login"
    """It refuses until the `login` tool was called."""
    PAGES = "pages"
    """It gives the row only on the page that holds it; each page before names the cursor of the next."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The one faulty tool of a task."""

    kind: FaultKind
    tool: str
    """Plain name."""

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind.value, "tool": self.tool}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Fault:
        return Fault(FaultKind(row["kind"]), row["tool"])


class Faults:
    """What a session has met of its task's fault. Mutable; all questions are asked of the state as it is now."""

    def __init__(self, fault: Fault | None, world: World, seed: int) -> None:
        """`world`: gives the order of the rows, which no call changes. `seed`: of the cursors."""
        self._fault = fault
        self._seed = seed
        is_gate = fault is not None and fault.kind is not FaultKind.PAGES
        self.closed: frozenset[str] = frozenset([fault.tool]) if fault and is_gate else frozenset()
        """Tools that one more call opens: their own, or a login."""
        self._page_of: dict[Value, int] = _pages(fault.tool, world) if fault and not is_gate else {}
        self._looked: dict[Value, int] = {}
        """Row → pages seen in search of it, without luck."""

    def fork(self) -> Faults:
        """An equal state that shares nothing mutable with this one."""
        twin = object.__new__(Faults)
        twin._fault, twin._seed, twin._page_of = self._fault, self._seed, self._page_of
        twin.closed, twin._looked = self.closed, dict(self._looked)
        return twin

    def admit(self, tool: str) -> None:
        """Let a call of `tool` pass, or raise the `Refusal` that it meets. A transient error is met once."""
        if tool not in self.closed:
            return
        assert self._fault is not None, "only a fault closes a tool"
        if self._fault.kind is FaultKind.LOGIN:
            raise Refusal("log in first")
        self.closed = frozenset()
        raise Refusal("busy, call again")

    def log_in(self) -> None:
        """What refused for want of a login works from now on."""
        self.closed = frozenset()

    def page(self, row: Value, cursor: str) -> str | None:
        """The observation of a page that does not hold the row; None where the page holds it.

        Raises:
            Refusal: no page has named this cursor for this row.
        """
        last = self._page_of[row]
        page = next((page for page in range(1, last + 1) if self._cursor(row, page) == cursor), None)
        if page is None:
            raise Refusal(f"no cursor {cursor}")
        if page == last:
            return None
        self._looked[row] = max(page, self._looked.get(row, 0))
        return f"{MISS}, cursor {self._cursor(row, page + 1)}"

    def next_cursor(self, fact: Fact) -> str:
        """The cursor with which to go on looking for a fact; empty on the first page, and where there are no pages."""
        if not self._is_paged(fact):
            return ""
        return self._cursor(fact.values[0], self._looked.get(fact.values[0], 0) + 1)

    def calls_for(self, fact: Fact) -> int:
        """Calls that still lead to a fact once its tool is open: one, or as many as there are pages to go."""
        if not self._is_paged(fact):
            return 1
        return self._page_of[fact.values[0]] - self._looked.get(fact.values[0], 0)

    def is_behind_login(self, tool: str) -> bool:
        """Whether the next call has to be a login before this tool works."""
        return tool in self.closed and self._fault is not None and self._fault.kind is FaultKind.LOGIN

    def toll(self, tools: Collection[str]) -> int:
        """Calls beyond their own that a set of tools takes now: one where a tool among them is closed."""
        return int(not self.closed.isdisjoint(tools))

    def _is_paged(self, fact: Fact) -> bool:
        return self._fault is not None and fact.tool == self._fault.tool and fact.values[0] in self._page_of

    def _cursor(self, row: Value, page: int) -> str:
        if page == 1:
            return ""
        # The last digit keeps the cursors of one row apart.
        return f"c{stable_hash(f'cursor {self._seed} {row} {page}') % 90 + 10}{page}"


def draw_fault(rng: random.Random, calls: tuple[EvaluatedCall, ...], world: World) -> Fault | None:
    """A fault of one of the tools that the calls need; None where that kind would change nothing."""
    kind = rng.choice(tuple(FaultKind))
    if kind is not FaultKind.PAGES:
        return Fault(kind, rng.choice(sorted({call.tool for call in calls})))
    faults = [Fault(kind, tool) for tool in sorted({c.tool for c in calls if is_listable(TOOLS[c.tool])})]
    late = [one for one in faults if any(Faults(one, world, 0).calls_for(call.fact) > 1 for call in calls)]
    return rng.choice(late) if late else None


def extra_tools(fault: Fault | None) -> tuple[str, ...]:
    """Plain names of the tools that a fault makes necessary."""
    return (LOGIN.spec.name,) if fault is not None and fault.kind is FaultKind.LOGIN else ()


def _pages(tool: str, world: World) -> dict[Value, int]:
    domain = TOOLS[tool].domains[0]
    rows = world.cities() if domain == "city" else list(world.tables()[domain])
    return {row: position // PAGE_ROWS + 1 for position, row in enumerate(rows)}
