"""Whether a service is ready: found out once in a while, whoever asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.errors import ScorerUnavailable
from reward_service.readiness import ProbeTiming, Readiness
from reward_service.rewards import TrajectoryReward
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import TrajectoryItem
from tests.reward_service.held import HeldSignal
from tests.reward_service.kept import KEYS, client_of
from tests.reward_service.problems import assert_problem

OTHER = {"shaping": {"kind": "outcome_only"}}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Probed(Recipe):
    """A recipe that counts how often it is asked, waits until it may answer, and is lost for as long as a test says."""

    def __init__(self, **settings: object) -> None:
        super().__init__(RewardConfig.model_validate(settings))
        self.asked = 0
        self.lost = False
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def score(self, item: TrajectoryItem, plug_in_seconds: float | None = None) -> TrajectoryReward:
        self.asked += 1
        await self.may_end.wait()
        if self.lost:
            raise ScorerUnavailable("judge: away")
        return await super().score(item, plug_in_seconds)


class Stubborn(Probed):
    """Does not let itself be cancelled."""

    async def score(self, item: TrajectoryItem, plug_in_seconds: float | None = None) -> TrajectoryReward:
        self.asked += 1
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                continue
        return await Recipe.score(self, item)


def readiness(recipe: Recipe, clock: Clock, **timing: float) -> Readiness:
    return Readiness(RewardService(recipe), None, ProbeTiming(**timing), clock)


async def test_any_number_of_callers_costs_one_probe_in_five_seconds():
    recipe, clock = Probed(), Clock()
    ready = readiness(recipe, clock)
    assert set(await asyncio.gather(*(ready.version() for _ in range(50)))) == {recipe.version}
    clock.now = 104.9
    await ready.version()
    assert recipe.asked == 1
    clock.now = 105.0
    await ready.version()
    assert recipe.asked == 2


async def test_that_a_service_is_not_ready_stands_as_long():
    recipe, clock = Probed(), Clock()
    ready = readiness(recipe, clock)
    recipe.lost = True
    for now in (100.0, 104.9):
        clock.now = now
        with pytest.raises(ScorerUnavailable, match="judge: away"):
            await ready.version()
    recipe.lost = False
    assert recipe.asked == 1
    clock.now = 105.0
    assert await ready.version() == recipe.version


async def test_another_recipe_is_probed_at_once():
    service, other = RewardService(Probed()), Probed(**OTHER)
    ready = Readiness(service, None, clock=Clock())
    first = await ready.version()
    service.use(other)
    assert await ready.version() == other.version != first
    assert other.asked == 1


async def test_a_caller_that_leaves_does_not_end_the_probe_of_the_others():
    recipe = Probed()
    ready = readiness(recipe, Clock())
    recipe.may_end.clear()
    impatient, patient = (asyncio.create_task(ready.version()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    recipe.may_end.set()
    assert await patient == recipe.version
    assert recipe.asked == 1


async def test_a_probe_that_hangs_is_ended_and_not_begun_again_before_its_time():
    recipe, clock = Probed(), Clock()
    ready = readiness(recipe, clock, probe_seconds=0.05)
    recipe.may_end.clear()
    for now in (100.0, 104.9):
        clock.now = now
        with pytest.raises(ScorerUnavailable, match=r"no answer about a known trajectory within 0\.05 s"):
            await ready.version()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert recipe.asked == 1
    recipe.may_end.set()
    clock.now = 105.0
    assert await ready.version() == recipe.version


async def test_a_probe_that_cannot_be_ended_holds_nobody_and_is_never_joined_by_another():
    recipe, clock = Stubborn(), Clock()
    ready = readiness(recipe, clock, probe_seconds=0.05)
    recipe.may_end.clear()
    for now in (100.0, 200.0):
        clock.now = now
        with pytest.raises(ScorerUnavailable, match="no answer about a known trajectory"):
            await ready.version()
    assert recipe.asked == 1
    recipe.may_end.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=20)
    assert await ready.version() == recipe.version
    assert recipe.asked == 2


async def test_a_plug_in_that_hangs_is_named_to_everybody_who_asks(tmp_path: Path, monkeypatch):
    held = HeldSignal(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = Recipe(RewardConfig.model_validate({"signals": {"success": held.settings}}))
    async with client_of(build_app(RewardService(recipe), KEYS)) as http, asyncio.timeout(20):
        first, *others = await asyncio.gather(*(http.get("/readyz", auth=None) for _ in range(8)))
        late = await http.get("/readyz", auth=None)
    for answer in (first, *others, late):
        assert_problem(answer, 503)
        assert answer.json()["detail"] == "signal 'success': its code gave no answer within 3 s"
    assert asyncio.all_tasks() == {asyncio.current_task()}
