"""Whether a service can score now: one answer for everybody who asks.

Consumes a `RewardService` and its store; produces the reward version that is ready. Owns how often they are asked, and
for how long: who asks for readiness shows no key, and a plug-in may cost money with every trajectory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from reward_service.errors import ScorerUnavailable
from reward_service.service import RewardService
from reward_service.store.opening import Store


@dataclass(frozen=True, slots=True)
class ProbeTiming:
    """How long a probe takes at most, and how long its result stands."""

    plug_in_seconds: float = 3.0
    """Of one plug-in."""
    probe_seconds: float = 4.0
    """Of all that is asked."""
    interval_seconds: float = 5.0
    """Between the beginnings of two probes."""


@dataclass(frozen=True, slots=True)
class _Probe:
    task: asyncio.Task[None]
    version: str
    began: float


class Readiness:
    """What `/readyz` knows, for one event loop."""

    def __init__(
        self,
        service: RewardService,
        store: Store | None,
        timing: ProbeTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._store = store
        self._timing = timing or ProbeTiming()
        self._clock = clock
        self._last: _Probe | None = None

    async def version(self) -> str:
        """The reward version that is ready, as the last probe found it; begins one where that is too old.

        Raises:
            ScorerUnavailable: a known trajectory could not be scored, or not in time; names a plug-in that was late.
            StoreUnavailable: the database cannot be used now.
        """
        probe = self._last = self._standing() or self._begun()
        left = max(0.0, probe.began + self._timing.probe_seconds - self._clock())
        # Not the task itself: a caller that leaves must not end what others wait for, and code that does not let
        # itself be cancelled must not hold them.
        await asyncio.wait([probe.task], timeout=left)
        if not probe.task.done():
            probe.task.cancel()
        if not probe.task.done() or probe.task.cancelled():
            raise ScorerUnavailable(
                f"readiness: no answer about a known trajectory within {self._timing.probe_seconds:g} s; see whether "
                "judge, step model, plug-ins and store answer"
            )
        probe.task.result()
        return probe.version

    def _standing(self) -> _Probe | None:
        """The last probe, while it runs, and while its result is that of the recipe in use and not too old."""
        probe = self._last
        if probe is None or not probe.task.done():
            return probe
        is_young = self._clock() < probe.began + self._timing.interval_seconds
        return probe if is_young and probe.version == self._service.reward_version else None

    def _begun(self) -> _Probe:
        task = asyncio.create_task(self._probe())
        # Its error is every caller's, also where none has waited for it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return _Probe(task, self._service.reward_version, self._clock())

    async def _probe(self) -> None:
        await self._service.check(self._timing.plug_in_seconds)
        if self._store is not None:
            await self._store.check()
