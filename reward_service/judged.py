"""Signals by a judge: the votes on a trajectory, each cast once, as columns of numbers.

Consumes trajectories; produces success, contribution and IsSolved of every step, with the judge's reasons. Votes go
through a store, so that the same trajectory costs its votes once, whatever replica, client or restart asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reward_service.errors import ScorerUnavailable
from reward_service.finding import content_digest
from reward_service.judge.judge import Judge
from reward_service.judge.judgement import Judgement, Spread
from reward_service.judge.votes import vote_bytes, vote_of
from reward_service.measuring import Told
from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.store.keys import Key
from reward_service.store.once import Failure, Once, Outcome
from reward_service.wire import TrajectoryItem


class JudgeSignals:
    """One judge behind the three places of a recipe."""

    def __init__(self, judge: Judge, once: Once) -> None:
        self._judge = judge
        self._once = once

    async def told(self, item: TrajectoryItem) -> Told:
        """What the judge says of every step.

        Raises:
            ScorerUnavailable: the endpoint or the store is down, or too slow.
        """
        judgement = self._judge.judgement(item, [vote_of(kept) for kept in await self._votes(item)])
        last = len(judgement.steps) - 1
        solved = [_mean(judgement.solved) if i == last else None for i in range(len(judgement.steps))]
        columns = {
            "success": [_mean(step.success) for step in judgement.steps],
            "contribution": [_mean(step.contribution) for step in judgement.steps],
            "solved": solved,
        }
        return Told(columns, _reasons(judgement))

    async def _votes(self, item: TrajectoryItem) -> Sequence[bytes]:
        config = self._judge.config
        digest = content_digest(item)
        keys = [Key("vote", self._judge.fingerprint, digest, ordinal) for ordinal in range(config.votes)]

        async def cast(positions: Sequence[int]) -> Sequence[Outcome]:
            return await asyncio.gather(*(self._cast(item) for _ in positions))

        try:
            outcomes = await self._once.results(keys, cast, config.vote_seconds * config.votes)
        except (ResultsLate, StoreUnavailable) as error:
            raise ScorerUnavailable(f"judge: {error}") from error
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise outcome.error
        return [outcome for outcome in outcomes if isinstance(outcome, bytes)]

    async def _cast(self, item: TrajectoryItem) -> Outcome:
        try:
            return vote_bytes(await self._judge.vote(item))
        except ScorerUnavailable as error:
            return Failure(error)


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _reasons(judgement: Judgement) -> list[str | None]:
    reasons = [step.reason for step in judgement.steps]
    if reasons and judgement.solved_reason is not None:
        reasons[-1] = judgement.solved_reason
    return reasons
