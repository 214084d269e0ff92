"""`Once` over a database. Owns who in this process is after which key, so that callers share flights."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from reward_service.store.database import Database
from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.store.flight import Flight
from reward_service.store.keys import Key
from reward_service.store.once import Compute, Outcome, computed, first_positions, within
from reward_service.store.timing import Timing

logger = logging.getLogger(__name__)

_Landing = asyncio.Future[Outcome | None]
"""Where the outcome of a key arrives; None where its flight gave the key up."""


class SharedOnce:
    """Results that are computed once by all processes that use one database; for one event loop."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database = database
        self._timing = timing
        self._landings: dict[Key, _Landing] = {}
        self._flights: set[asyncio.Task[None]] = set()
        self._closed = False

    async def results(self, keys: Sequence[Key], compute: Compute, deadline_seconds: float) -> Sequence[Outcome]:
        """One outcome for each key; see `Once.results`."""
        positions = first_positions(keys)
        outcomes: dict[Key, Outcome] = {}
        async with within(len(keys), deadline_seconds):
            ends_at = asyncio.get_running_loop().time() + deadline_seconds
            while missing := [key for key in positions if key not in outcomes]:
                outcomes |= await self._round({key: positions[key] for key in missing}, compute, ends_at)
        return [outcomes[key] for key in keys]

    async def aclose(self) -> None:
        """End all flights and wait until they have given their claims back."""
        self._closed = True
        for flight in self._flights:
            flight.cancel()
        if self._flights:
            await asyncio.wait(self._flights, timeout=self._timing.operation_seconds)

    async def _round(self, positions: Mapping[Key, int], compute: Compute, ends_at: float) -> Mapping[Key, Outcome]:
        """Follow the flights of others, and begin one for the rest; the outcomes that this caller may have."""
        followed = {key: self._landings[key] for key in positions if key in self._landings}
        begun = {key: position for key, position in positions.items() if key not in followed}
        outcomes = await self._begin(begun, compute, ends_at) if begun else {}
        if followed:
            await asyncio.wait(followed.values())
        # What others failed at is theirs: this caller tries it itself, in the next round.
        landed = {key: landing.result() for key, landing in followed.items()}
        return outcomes | {key: outcome for key, outcome in landed.items() if isinstance(outcome, bytes)}

    async def _begin(self, positions: Mapping[Key, int], compute: Compute, ends_at: float) -> dict[Key, Outcome]:
        landings = self._register(positions)
        task = asyncio.create_task(self._fly(landings, positions, compute, ends_at))
        self._flights.add(task)
        # Not at the end of the task: one that is cancelled before its first step has no end to run.
        task.add_done_callback(lambda flight: self._give_up(flight, landings))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(_report)
            raise
        if task.cancelled():
            raise self._closed_error()
        task.result()
        return {key: outcome for key, landing in landings.items() if (outcome := landing.result()) is not None}

    def _register(self, keys: Iterable[Key]) -> dict[Key, _Landing]:
        if self._closed:
            raise self._closed_error()
        loop = asyncio.get_running_loop()
        landings: dict[Key, _Landing] = {key: loop.create_future() for key in keys}
        self._landings |= landings
        return landings

    async def _fly(
        self, landings: Mapping[Key, _Landing], positions: Mapping[Key, int], compute: Compute, ends_at: float
    ) -> None:
        async def compute_keys(keys: Sequence[Key]) -> Sequence[Outcome]:
            return await computed(compute, [positions[key] for key in keys])

        def land(key: Key, outcome: Outcome) -> None:
            self._land(key, landings[key], outcome)

        remaining = ends_at - asyncio.get_running_loop().time()
        await Flight(self._database, self._timing, compute_keys, land).run(list(positions), remaining)

    def _give_up(self, flight: asyncio.Task[None], landings: Mapping[Key, _Landing]) -> None:
        self._flights.discard(flight)
        for key, landing in landings.items():
            if not landing.done():
                self._land(key, landing, None)

    def _land(self, key: Key, landing: _Landing, outcome: Outcome | None) -> None:
        del self._landings[key]
        landing.set_result(outcome)

    def _closed_error(self) -> StoreUnavailable:
        return StoreUnavailable(self._database.name, "it was closed by its owner")


def _report(flight: asyncio.Task[None]) -> None:
    """Tell the log of an error that has nobody to go to."""
    error = None if flight.cancelled() else flight.exception()
    if error is not None and not isinstance(error, ResultsLate):
        # Its text may quote a trajectory.
        logger.warning("results whose caller had left were not computed: %s", type(error).__name__)
