"""Scoring beside the rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from actors.score_batcher import ScoreBatcher
from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from reward_service.errors import RewardRequestError
from tests.actors.fakes import scored, step, trajectory

LONG = 3600.0
"""Seconds that no test waits for."""


class Scorer:
    """Scores what it gets and writes down the requests."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
        self.requests.append([one.id for one in trajectories])
        return [scored(one) for one in trajectories]


def played(id: str) -> Trajectory:
    return trajectory(step(), id=id)


async def test_a_finished_episode_is_scored_while_another_plays_on() -> None:
    scorer = Scorer()
    batcher = ScoreBatcher(scorer, linger_seconds=0.0)
    still_playing = asyncio.Event()

    async def slow() -> ScoredTrajectory:
        await still_playing.wait()
        return await batcher.score(played("slow"))

    task = asyncio.create_task(slow())
    assert (await batcher.score(played("fast"))).trajectory.id == "fast"
    assert not task.done()
    still_playing.set()
    assert (await task).trajectory.id == "slow"
    assert scorer.requests == [["fast"], ["slow"]]


async def test_what_arrives_together_is_one_request_and_everybody_gets_his_own() -> None:
    scorer = Scorer()
    batcher = ScoreBatcher(scorer, max_items=3, linger_seconds=LONG)
    answers = await asyncio.gather(*(batcher.score(played(id)) for id in "abcdef"))
    assert scorer.requests == [["a", "b", "c"], ["d", "e", "f"]]
    assert [one.trajectory.id for one in answers] == list("abcdef")


async def test_a_batch_that_does_not_fill_goes_out_after_its_linger() -> None:
    scorer = Scorer()
    batcher = ScoreBatcher(scorer, max_items=3, linger_seconds=0.01)
    await asyncio.gather(*(batcher.score(played(id)) for id in "abcd"))
    assert scorer.requests == [["a", "b", "c"], ["d"]]


async def test_a_lost_reward_service_is_told_to_every_waiter() -> None:
    async def lost(_: Sequence[Trajectory]) -> list[ScoredTrajectory]:
        raise RewardRequestError("reward service: no answer")

    batcher = ScoreBatcher(lost, max_items=2, linger_seconds=LONG)
    told = await asyncio.gather(batcher.score(played("a")), batcher.score(played("b")), return_exceptions=True)
    assert [str(error) for error in told] == ["reward service: no answer"] * 2


async def test_a_scorer_that_answers_for_too_few_leaves_nobody_waiting() -> None:
    async def forgetful(trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
        return [scored(one) for one in trajectories[1:]]

    batcher = ScoreBatcher(forgetful, linger_seconds=0.0)
    with pytest.raises(ValueError, match="0 results for 1 trajectories"):
        await batcher.score(played("a"))


async def test_a_waiter_that_gives_up_does_not_take_the_scores_from_the_others() -> None:
    scorer = Scorer()
    batcher = ScoreBatcher(scorer, max_items=2, linger_seconds=LONG)
    impatient = asyncio.create_task(batcher.score(played("a")))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await batcher.score(played("b"))).trajectory.id == "b"
    assert impatient.cancelled()
