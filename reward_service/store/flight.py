"""Keys on their way from a question to their results. Owns `Flight`: look up, claim, compute, keep, or wait.

A flight is a task of its own. A caller that goes away does not end it, for its results are wanted by others, or by the
same caller's next try; the deadline of the caller who began it does.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from sqlalchemy import Connection

from reward_service.store import claims
from reward_service.store.database import Database
from reward_service.store.keys import Key
from reward_service.store.leases import given_back_on_failure, renewed
from reward_service.store.once import Failure, Outcome, within
from reward_service.store.timing import Timing

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5


class Flight:
    """The keys that one caller asked for and nobody else in this process is after."""

    def __init__(
        self,
        database: Database,
        timing: Timing,
        compute: Callable[[Sequence[Key]], Awaitable[Sequence[Outcome]]],
        land: Callable[[Key, Outcome], None],
    ) -> None:
        """`land` is told each outcome as soon as it is known."""
        self._database = database
        self._timing = timing
        self._compute = compute
        self._land = land
        self._owner = uuid.uuid4().hex

    async def run(self, keys: Sequence[Key], deadline_seconds: float) -> None:
        """Land every key.

        Raises:
            ResultsLate: the deadline came first.
            StoreUnavailable: the database cannot be used now.
            Exception: whatever `compute` raised.
        """
        waiting = keys
        async with within(len(keys), deadline_seconds):
            for pause in _pauses():
                landed = await self._advance(waiting)
                waiting = [key for key in waiting if key not in landed]
                if not waiting:
                    return
                if not landed:
                    await asyncio.sleep(pause)

    async def _advance(self, keys: Sequence[Key]) -> set[Key]:
        """Land what is stored and what can be computed here; the keys that landed."""
        found = await self._database.read(lambda connection: claims.look_up(connection, keys))
        self._land_all(found.stored)
        mine = await self._compute_free(found.free) if found.free else set()
        return found.stored.keys() | mine

    async def _compute_free(self, free: Mapping[Key, str | None]) -> set[Key]:
        """Claim, compute, keep and land; the keys that this flight got."""
        lease = self._timing.lease_seconds
        async with given_back_on_failure(lambda: self._release(free)):
            mine = await self._database.write(lambda connection: claims.claim(connection, self._owner, free, lease))
            if mine:
                ordered = [key for key in free if key in mine]
                async with renewed(lambda: self._renew(ordered), self._timing.renewal_seconds):
                    outcomes = await self._compute(ordered)
                await self._keep(dict(zip(ordered, outcomes, strict=True)))
        return mine

    async def _keep(self, outcomes: Mapping[Key, Outcome]) -> None:
        values = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, bytes)}
        failures = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Failure)}

        def settle(connection: Connection) -> Mapping[Key, bytes]:
            claims.release(connection, self._owner, failures)
            return claims.keep(connection, values)

        self._land_all(await self._database.write(settle))
        self._land_all(failures)

    def _land_all(self, outcomes: Mapping[Key, Outcome]) -> None:
        for key, outcome in outcomes.items():
            self._land(key, outcome)

    async def _renew(self, mine: Sequence[Key]) -> None:
        lease = self._timing.lease_seconds
        await self._database.write(lambda connection: claims.renew(connection, self._owner, mine, lease))

    async def _release(self, keys: Iterable[Key]) -> None:
        # Not only what was won: of a claim that was interrupted nobody knows whether it was made.
        await self._database.write(lambda connection: claims.release(connection, self._owner, keys))


def _pauses() -> Iterable[float]:
    """Seconds between two looks at what another replica computes; with jitter, so that no two march in step."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
