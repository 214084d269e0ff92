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
class _Batch:
    """One request in the making. Everybody in it waits for the same task, and sees the same error."""

    trajectories: list[Trajectory]
    full: asyncio.Event
    scored: asyncio.Task[list[ScoredTrajectory]]


@dataclass(slots=True)
class ScoreBatcher:
    """Groups what arrives within `linger_seconds`, at most `max_items` to a request."""

    score_many: ScoreMany
    max_items: int = 16
    linger_seconds: float = 0.02
    _open: _Batch | None = field(default=None, init=False)

    async def score(self, trajectory: Trajectory) -> ScoredTrajectory:
        """The trajectory with its rewards; raises what the reward client raises."""
        batch = self._open or self._begin()
        index = len(batch.trajectories)
        batch.trajectories.append(trajectory)
        if len(batch.trajectories) == self.max_items:
            self._close(batch)
        # Shielded: one caller that gives up must not take the scores from the others.
        return (await asyncio.shield(batch.scored))[index]

    def _begin(self) -> _Batch:
        trajectories: list[Trajectory] = []
        full = asyncio.Event()
        batch = _Batch(trajectories, full, asyncio.create_task(self._send(trajectories, full)))
        asyncio.get_running_loop().call_later(self.linger_seconds, self._close, batch)
        self._open = batch
        return batch

    def _close(self, batch: _Batch) -> None:
        batch.full.set()
        if self._open is batch:
            self._open = None

    async def _send(self, trajectories: list[Trajectory], full: asyncio.Event) -> list[ScoredTrajectory]:
        await full.wait()
        scored = await self.score_many(trajectories)
        if len(scored) != len(trajectories):
            raise ValueError(f"scoring: {len(scored)} results for {len(trajectories)} trajectories; expected one each")
        return scored
