"""Overlap as a signal: short texts are compared at once, long ones in a thread, a piece at a time.

Owns `Overlap`, which `measuring` asks. Between two pieces other trajectories have their turn, and a deadline or a
caller that has gone ends the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from reward_service.config import OverlapContribution
from reward_service.overlap import ComparedAnswer, cost
from reward_service.signals import Called, Episode, Turn, contribution
from reward_service.wire import TrajectoryItem
from tool_sandbox.tools import CallStatus

_AT_ONCE = 2**21
"""Of one trajectory: about half a millisecond, little more than a thread costs."""
_PIECE = 2**23


class Overlap:
    """One threshold, and the thread for what takes long."""

    def __init__(self, config: OverlapContribution) -> None:
        self._threshold = config.threshold
        # One: under the interpreter lock several would only get into each other's way.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="overlap")

    async def column(self, item: TrajectoryItem, episode: Episode) -> Sequence[float | None]:
        """The contribution of every step; cancelling ends the work after the piece that is being compared."""
        column = [_before_comparing(turn) for turn in episode.turns]
        ran = [i for i, turn in enumerate(episode.turns) if isinstance(turn, Called) and turn.status is CallStatus.OK]
        if episode.answer is not None and ran:
            results = [item.steps[i].observation or "" for i in ran]
            for i, value in zip(ran, await self._contributions(results, episode.answer), strict=True):
                column[i] = value
        return column

    async def _contributions(self, results: Sequence[str], answer: str) -> Sequence[float]:
        if sum(cost(result, answer) for result in results) <= _AT_ONCE:
            return self._compared(ComparedAnswer(answer), results)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._thread, ComparedAnswer, answer)
        found: list[float] = []
        for piece in _pieces(results, answer):
            found += await loop.run_in_executor(self._thread, self._compared, prepared, piece)
        return found

    def _compared(self, answer: ComparedAnswer, results: Sequence[str]) -> list[float]:
        return [answer.contributed(result, self._threshold) for result in results]


def _before_comparing(turn: Turn) -> float | None:
    """What is known of a turn without its texts: a call that ran has contributed nothing yet."""
    return 0.0 if isinstance(turn, Called) and not turn.lost else contribution(turn)


def _pieces(results: Sequence[str], answer: str) -> Iterator[Sequence[str]]:
    """All of `results` in order; each piece but the last costs a little over the limit."""
    piece: list[str] = []
    size = 0
    for result in results:
        piece.append(result)
        size += cost(result, answer)
        if size >= _PIECE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
