"""Scoring beside the rollouts: finished trajectories are gathered into requests while others still play.

Owns `ScoreBatcher`. Consumes trajectories one at a time, produces scored ones; one HTTP request carries many, and an
episode that has ended never waits for one that has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory

ScoreMany = Callable[[Sequence[Trajectory]], Awaitable[list[ScoredTrajectory]]]


@dataclass(slots=True)
class ScoreBatcher:
    """Groups what arrives within `linger_seconds`, at most `max_items` to a request."""

    score_many: ScoreMany
    max_items: int = 16
    linger_seconds: float = 0.02
    _pending: list[tuple[Trajectory, asyncio.Future[ScoredTrajectory]]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def score(self, trajectory: Trajectory) -> ScoredTrajectory:
        """The trajectory with its rewards; raises what the reward client raises."""
        future: asyncio.Future[ScoredTrajectory] = asyncio.get_running_loop().create_future()
        self._pending.append((trajectory, future))
        if len(self._pending) >= self.max_items:
            self._start(0.0)
        elif len(self._pending) == 1:
            self._start(self.linger_seconds)
        return await future

    def _start(self, delay: float) -> None:
        task = asyncio.get_running_loop().create_task(self._flush(delay))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self, delay: float) -> None:
        await asyncio.sleep(delay)
        batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            scored = await self.score_many([trajectory for trajectory, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for result, (_, future) in zip(scored, batch, strict=True):
            future.set_result(result)
