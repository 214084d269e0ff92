"""Rewards of many trajectories at once: computed, or found where they were kept.

Owns the protocol `Scorer`, and the two ways to `Found` results: `ComputedRewards` computes every time, `KeptRewards`
goes through a store, so that equal trajectories are scored once for each reward version. A failure is never kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pydantic import TypeAdapter

from reward_service.errors import ScorerUnavailable, UnscorableTrajectory
from reward_service.rewards import TrajectoryReward
from reward_service.scoring import Description
from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.store.keys import Key, digest_of
from reward_service.store.once import Failure, Once, Outcome, first_positions
from reward_service.wire import TrajectoryItem

Found = TrajectoryReward | UnscorableTrajectory | ScorerUnavailable
"""The end of one trajectory."""

_TURN_SECONDS = 0.005
"""After so long, rules let others have the event loop, and look at their deadline."""
_REWARD = TypeAdapter(TrajectoryReward)


class Scorer(Protocol):
    """Whatever turns one trajectory into rewards; `scoring.Recipe` is the one."""

    @property
    def version(self) -> str:
        """The reward version."""
        ...

    @property
    def by_rules(self) -> bool:
        """Whether `score` asks nobody, and gives the same numbers every time."""
        ...

    @property
    def description(self) -> Description:
        """What a caller may want to know."""
        ...

    async def score(self, item: TrajectoryItem, plug_in_seconds: float | None = None) -> TrajectoryReward:
        """One reward for each step. Whoever asks bounds the whole; `plug_in_seconds` bounds each plug-in by itself.

        Raises:
            UnscorableTrajectory: the trajectory lacks what the shaping needs.
            ScorerUnavailable: what the scorer depends on was lost.
        """
        ...


class FindsRewards(Protocol):
    """Whatever gives the rewards of trajectories."""

    async def find(self, scorer: Scorer, items: Sequence[TrajectoryItem], seconds: float) -> Sequence[Found]:
        """One end for each trajectory, in order, within `seconds`."""
        ...


class ComputedRewards:
    """Computes every time."""

    async def find(self, scorer: Scorer, items: Sequence[TrajectoryItem], seconds: float) -> Sequence[Found]:
        """One end for each trajectory, in order."""
        if scorer.by_rules:
            return await _by_rules(scorer, items, seconds)
        return await asyncio.gather(*(_asked(scorer, item, seconds) for item in items))


class KeptRewards:
    """Asks for what a store does not hold; what rules alone decide is computed."""

    def __init__(self, once: Once) -> None:
        self._once = once
        self._computed = ComputedRewards()

    async def find(self, scorer: Scorer, items: Sequence[TrajectoryItem], seconds: float) -> Sequence[Found]:
        """One end for each trajectory, in order; all that has to be asked fails together where the store is down."""
        if scorer.by_rules:
            # Rules give the same numbers every time, and faster than any store.
            return await self._computed.find(scorer, items, seconds)
        keys = [Key("score", scorer.version, content_digest(item)) for item in items]
        firsts = first_positions(keys)
        ends = await asyncio.gather(*(self._kept(scorer, key, items[i], seconds) for key, i in firsts.items()))
        outcomes = dict(zip(firsts, ends, strict=True))
        return [_found(item, outcomes[key]) for key, item in zip(keys, items, strict=True)]

    async def _kept(self, scorer: Scorer, key: Key, item: TrajectoryItem, seconds: float) -> Outcome:
        """The outcome of one trajectory: each has its own deadline, so that a late one does not spoil the others."""

        async def compute(_: Sequence[int]) -> Sequence[Outcome]:
            return [_outcome(one) for one in await self._computed.find(scorer, [item], seconds)]

        try:
            (outcome,) = await self._once.results([key], compute, seconds)
        except (ResultsLate, StoreUnavailable) as error:
            return Failure(ScorerUnavailable(str(error)))
        return outcome


def content_digest(item: TrajectoryItem) -> str:
    """A hash of all of a trajectory that may decide its rewards: of everything but its own and its calls' names."""
    return digest_of(item.model_dump(mode="json", exclude={"id": True, "steps": {"__all__": {"tool_call_id"}}}))


async def _by_rules(scorer: Scorer, items: Sequence[TrajectoryItem], seconds: float) -> Sequence[Found]:
    """One after the other under one deadline: tasks and deadlines of their own would cost more than most rules do."""
    found: list[Found] = []
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            begun = time.monotonic()
            for item in items:
                found.append(await _ended(scorer, item))
                if time.monotonic() - begun > _TURN_SECONDS:
                    await asyncio.sleep(0)
                    begun = time.monotonic()
    except TimeoutError:
        if not limit.expired():
            raise
    return [*found, *(_late(item, seconds) for item in items[len(found) :])]


async def _ended(scorer: Scorer, item: TrajectoryItem) -> Found:
    try:
        return await scorer.score(item)
    except (UnscorableTrajectory, ScorerUnavailable) as error:
        return error


async def _asked(scorer: Scorer, item: TrajectoryItem, seconds: float) -> Found:
    try:
        async with asyncio.timeout(seconds):
            return await _ended(scorer, item)
    except TimeoutError:
        return _late(item, seconds)


def _late(item: TrajectoryItem, seconds: float) -> ScorerUnavailable:
    return ScorerUnavailable(f"trajectory {item.id!r}: not scored within {seconds:g} s")


def _outcome(found: Found) -> Outcome:
    if isinstance(found, TrajectoryReward):
        return _REWARD.dump_json(replace(found, trajectory_id=""))
    return Failure(found)


def _found(item: TrajectoryItem, outcome: Outcome) -> Found:
    if isinstance(outcome, bytes):
        return replace(_REWARD.validate_json(outcome), trajectory_id=item.id)
    if isinstance(outcome.error, UnscorableTrajectory):
        # One computation may serve equal trajectories of several names.
        return UnscorableTrajectory(item.id, outcome.error.reason)
    if isinstance(outcome.error, ScorerUnavailable):
        return outcome.error
    raise outcome.error
