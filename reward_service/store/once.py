"""Results by content: look up, else compute. Owns the protocol `Once` and its variant that keeps nothing.

A result is bytes, and a hit gives exactly the bytes that were stored. Loads no database library.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reward_service.store.errors import ResultsLate
from reward_service.store.keys import Key


@dataclass(frozen=True, slots=True)
class Failure:
    """One result that could not be computed. It is never stored: the next to ask computes again."""

    error: Exception


Outcome = bytes | Failure
Compute = Callable[[Sequence[int]], Awaitable[Sequence[Outcome]]]
"""Computes the results for some positions of `keys`, in the order of these positions."""


class Once(Protocol):
    """Whatever gives results by key."""

    async def results(self, keys: Sequence[Key], compute: Compute, deadline_seconds: float) -> Sequence[Outcome]:
        """One outcome for each key, in order; `compute` is called for those that nobody has and nobody computes.

        A key that occurs twice is computed once, at its first position. A `Failure` stands only where this call's own
        `compute` returned it, so that one bad item does not cost the others. `compute` may be called again for keys
        that another caller gave up.

        Raises:
            ResultsLate: the deadline came first; a computation that this call began ends with it.
            StoreUnavailable: the database cannot be used now.
            Exception: whatever `compute` raised.
        """
        ...

    async def aclose(self) -> None:
        """End running computations and give their claims back."""
        ...


class ComputeAlways:
    """Keeps nothing and shares nothing between calls."""

    async def results(self, keys: Sequence[Key], compute: Compute, deadline_seconds: float) -> Sequence[Outcome]:
        """One outcome for each key; see `Once.results`."""
        positions = first_positions(keys)
        async with within(len(keys), deadline_seconds):
            outcomes = await computed(compute, list(positions.values())) if positions else ()
        by_key = dict(zip(positions, outcomes, strict=True))
        return [by_key[key] for key in keys]

    async def aclose(self) -> None:
        """Nothing outlives a call."""


def first_positions(keys: Sequence[Key]) -> dict[Key, int]:
    """Where each key occurs first."""
    positions: dict[Key, int] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, position)
    return positions


async def computed(compute: Compute, positions: Sequence[int]) -> Sequence[Outcome]:
    """What `compute` gives for `positions`.

    Raises:
        ValueError: it gives more or fewer outcomes.
        TypeError: it gives something else than bytes or a `Failure`.
    """
    outcomes = await compute(positions)
    if len(outcomes) != len(positions):
        raise ValueError(f"compute: {len(outcomes)} outcomes for {len(positions)} positions; return one for each")
    odd = {type(outcome).__name__ for outcome in outcomes if not isinstance(outcome, Outcome)}
    if odd:
        raise TypeError(f"compute: outcomes of type {', '.join(sorted(odd))}; return bytes or a Failure")
    return outcomes


@contextlib.asynccontextmanager
async def within(wanted: int, seconds: float) -> AsyncIterator[None]:
    """A deadline that raises `ResultsLate`; a `TimeoutError` of the body's own stays what it is."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise ResultsLate(wanted, seconds) from None
