"""Signals by a judge: the votes on a trajectory, each cast once, as columns of numbers.

Consumes trajectories; produces success, contribution and IsSolved of every step, with the judge's reasons. Every vote
goes through a store by itself: the same trajectory costs its votes once, whatever replica, client or restart asks
again, and a process that is killed loses no vote that was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from reward_service.errors import ScorerUnavailable
from reward_service.judge.agreement import Agreement, is_lost
from reward_service.judge.config import JudgeConfig
from reward_service.judge.judge import Case, Judge
from reward_service.judge.judgement import Judgement, Spent, Spread, Usage, Vote
from reward_service.judge.votes import vote_bytes, vote_of
from reward_service.measuring import Told
from reward_service.rewards import Votes
from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.store.keys import Key, digest_of
from reward_service.store.once import Failure, Once, Outcome
from reward_service.wire import TrajectoryItem

_TRIES = 2
"""Deadlines that a vote may take: of another replica that is lost while it asks, and of this one."""
_LOOK_SECONDS = 5.0


def telling_seconds(config: JudgeConfig) -> float:
    """Deadline of the votes on one trajectory."""
    return _TRIES * config.vote_seconds


class JudgeSignals:
    """One judge behind the three places of a recipe."""

    def __init__(self, judge: Judge, once: Once, spent: Callable[[Spent], None] = lambda _: None) -> None:
        """`spent` hears of every vote that is cast."""
        self._judge = judge
        self._spent = spent
        self._once = once

    async def told(self, item: TrajectoryItem) -> Told:
        """What the judge says of every step.

        Raises:
            ScorerUnavailable: the endpoint or the store is down, or too slow.
        """
        judgement = await self._judgement(item)
        last = len(judgement.steps) - 1
        spreads = {
            "success": [step.success for step in judgement.steps],
            "contribution": [step.contribution for step in judgement.steps],
            "solved": [judgement.solved if i == last else None for i in range(last + 1)],
        }
        columns = {name: [_mean(spread) for spread in column] for name, column in spreads.items()}
        votes = {name: [_votes(spread) for spread in column] for name, column in spreads.items()}
        return Told(columns, _reasons(judgement), votes)

    async def agreement(self, items: Iterable[TrajectoryItem]) -> Agreement:
        """How far the kept votes on `items` agree; asks nobody. Trajectories that read alike count once.

        Raises:
            ScorerUnavailable: the store is down.
        """
        found = Agreement()
        for item in {_digest(item): item for item in items}.values():
            votes = await self._kept(item)
            if votes is not None:
                case = await self._case(item)
                found.add(case.questions, self._judge.judgement(case, votes))
        return found

    async def _judgement(self, item: TrajectoryItem) -> Judgement:
        case = await self._case(item)
        votes = await asyncio.gather(*(self._vote(key, case) for key in self._keys(item)), return_exceptions=True)
        for vote in votes:
            if isinstance(vote, BaseException):
                raise vote
        return self._judge.judgement(case, [vote for vote in votes if isinstance(vote, Vote)])

    async def _case(self, item: TrajectoryItem) -> Case:
        # The scanner takes milliseconds for each kilobyte, which other requests need not wait for.
        return await asyncio.to_thread(self._judge.case, item)

    def _keys(self, item: TrajectoryItem) -> list[Key]:
        digest = _digest(item)
        return [Key("vote", self._judge.fingerprint, digest, ordinal) for ordinal in range(self._judge.config.votes)]

    async def _vote(self, key: Key, case: Case) -> Vote:
        async def cast(_: Sequence[int]) -> Sequence[Outcome]:
            paid, lost = list[Usage](), True
            try:
                vote = await self._judge.vote(case, paid.append)
                lost = is_lost(vote, case.questions)
                return [vote_bytes(vote)]
            except ScorerUnavailable as error:
                return [Failure(error)]
            finally:
                self._account(lost, sum(paid, Usage()))

        try:
            (outcome,) = await self._once.results([key], cast, telling_seconds(self._judge.config))
        except (ResultsLate, StoreUnavailable) as error:
            raise ScorerUnavailable(f"judge: {error}") from error
        if isinstance(outcome, Failure):
            raise outcome.error
        return vote_of(outcome)

    def _account(self, lost: bool, usage: Usage) -> None:
        """Tell of one vote, with what was answered to it before it was lost."""
        prices = self._judge.config.prices
        self._spent(Spent(1, int(lost), usage, 0.0 if prices is None else usage.cost(prices)))

    async def _kept(self, item: TrajectoryItem) -> list[Vote] | None:
        """All votes on `item`; None where one was never cast, or is being cast."""

        async def nothing(positions: Sequence[int]) -> Sequence[Outcome]:
            return [Failure(LookupError("no such vote"))] * len(positions)

        try:
            outcomes = await self._once.results(self._keys(item), nothing, _LOOK_SECONDS)
        except ResultsLate:
            return None
        except StoreUnavailable as error:
            raise ScorerUnavailable(f"judge: {error}") from error
        kept = [vote_of(outcome) for outcome in outcomes if isinstance(outcome, bytes)]
        return kept if len(kept) == len(outcomes) else None


_UNREAD = {"id": True, "task": {"id", "level"}, "steps": {"__all__": {"tool_call_id"}}}
"""Names that callers give; no judge reads them."""


def _digest(item: TrajectoryItem) -> str:
    """A hash of all of a trajectory that a judge may read."""
    return digest_of(item.model_dump(mode="json", exclude=_UNREAD))


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _votes(spread: Spread | None) -> Votes | None:
    return None if spread is None else Votes(spread.votes, spread.variance)


def _reasons(judgement: Judgement) -> list[str | None]:
    reasons = [step.reason for step in judgement.steps]
    if reasons and judgement.solved_reason is not None:
        reasons[-1] = judgement.solved_reason
    return reasons
