"""The paper's rule of overlap: what it gives, and that long texts hold up nobody else."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from reward_service.config import OverlapContribution, RewardConfig, SignalsConfig
from reward_service.overlap import ComparedAnswer
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import call_step, trajectory

BY_OVERLAP = RewardConfig(signals=SignalsConfig(contribution=OverlapContribution()))


def by_definition(left: str, right: str) -> int:
    row = [0] * (len(right) + 1)
    for a in left:
        before = row[:]
        for j, b in enumerate(right):
            row[j + 1] = before[j] + 1 if a == b else max(before[j + 1], row[j])
    return row[-1]


def test_the_longest_common_subsequence_is_that_of_the_definition():
    assert ComparedAnswer("GAC").common("AGCAT") == 2
    chance = random.Random(7)
    for _ in range(200):
        left, right = ("".join(chance.choices("abc", k=chance.randrange(40))) for _ in range(2))
        assert ComparedAnswer(right).common(left) == by_definition(left, right)


def test_a_result_contributed_where_enough_of_it_stands_in_the_answer():
    # All 4 characters of "lamp" stand in order in the answer; of "0123456789" only "42" does not: 2 comes before 4.
    assert ComparedAnswer("the lamp costs 42").covered("lamp") == 1.0
    assert ComparedAnswer("42").covered("0123456789") == pytest.approx(0.1)
    assert [ComparedAnswer("the lamp").contributed("lamp", 0.3), ComparedAnswer("42").contributed("", 0.3)] == [
        1.0,
        0.0,
    ]


def long(id: str, steps: int = 256) -> dict:
    """A trajectory whose results and answer are as long as texts are compared, and have every second character."""
    results = [call_step(i) | {"observation": "ab" * 2048, "progress": None} for i in range(steps - 1)]
    return trajectory(id, steps=[*results, {"index": steps - 1, "answer": "ac" * 2048}])


def request(*trajectories: dict, deadline_ms: int | None = None) -> ScoreRequest:
    options = {"deadline_ms": deadline_ms}
    return ScoreRequest.model_validate({"options": options, "trajectories": trajectories})


async def test_a_large_request_does_not_hold_up_a_small_one():
    service = RewardService(Recipe(BY_OVERLAP))
    large = asyncio.create_task(service.score(request(*(long(f"t-{i}") for i in range(8)))))
    await asyncio.sleep(0)
    (small,) = (await service.score(request(trajectory()))).results
    # One result that stands in the answer: 0.6 - 0.1; then the right answer: 1.
    assert (small.status, small.total) == ("ok", 1.5)
    assert not large.done()
    large.cancel()


async def test_long_texts_are_compared_alike_in_a_thread():
    # 4 pieces, 0.5 of each result: over the threshold, so each call has 0.6 - 0.1; the answer is wrong.
    (result,) = (await RewardService(Recipe(BY_OVERLAP)).score(request(long("t", steps=5)))).results
    assert [step.reward for step in result.steps] == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.0])


async def test_what_is_not_compared_by_the_deadline_is_an_error_of_its_own():
    asked = request(trajectory("small"), long("large"), trajectory("after"), deadline_ms=40)
    small, large, after = (await RewardService(Recipe(BY_OVERLAP)).score(asked)).results
    assert small.status == "ok"
    for late in (large, after):
        assert late.error is not None
        assert late.error.kind == "infrastructure"
        assert late.error.message == f"trajectory {late.id!r}: not scored within 0.04 s"


class Plodding(Recipe):
    """The default recipe on a slow machine."""

    async def score(self, item, plug_in_seconds=None):
        _plod()
        return await super().score(item)


def _plod() -> None:
    time.sleep(0.02)


async def test_rules_look_at_the_deadline_between_trajectories_and_let_others_have_their_turn():
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    asked = request(*(trajectory(f"t-{i}") for i in range(5)), deadline_ms=30)
    results = (await RewardService(Plodding(RewardConfig())).score(asked)).results
    beside.cancel()
    # 5 trajectories of 20 ms: the first is in time, and the last is not.
    assert (results[0].status, results[4].status) == ("ok", "error")
    assert turns > 1
