"""A recipe that changes while requests are at work."""

from __future__ import annotations

import asyncio

from reward_service.config import OutcomeShaping, RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import recipe, trajectory, version_of


class Waiting(Recipe):
    """The default recipe, which waits until it is told to go on."""

    def __init__(self, gate: asyncio.Event) -> None:
        super().__init__(RewardConfig())
        self._gate = gate

    @property
    def by_rules(self) -> bool:
        return False

    async def score(self, item, plug_in_seconds=None):
        await self._gate.wait()
        return await super().score(item)


async def test_a_request_ends_by_the_recipe_that_it_began_with():
    gate = asyncio.Event()
    waiting = Waiting(gate)
    service = RewardService(waiting)
    request = ScoreRequest.model_validate({"trajectories": [trajectory()]})
    begun = asyncio.create_task(service.score(request))
    await asyncio.sleep(0)
    service.use(recipe(OutcomeShaping()))
    gate.set()
    assert (await begun).reward_version == waiting.version
    assert (await service.score(request)).reward_version == version_of(OutcomeShaping())
