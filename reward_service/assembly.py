"""From a configuration to a running service: the store is opened, the judge is connected, the recipe is loaded.

Owns the order, and that what was opened is closed. The only module that brings store, judge and recipe together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from reward_service.api import build_app
from reward_service.batch_work import working
from reward_service.config import RewardConfig
from reward_service.finding import ComputedRewards, KeptRewards
from reward_service.judge.judge import Judge
from reward_service.judged import JudgeSignals
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.stats import Stats
from reward_service.store.opening import Store, open_store
from tool_sandbox.http.keys import ApiKeys


@dataclass(frozen=True, slots=True)
class Assembly:
    """A service that can answer, and what it stands on."""

    service: RewardService
    store: Store
    judge: JudgeSignals | None
    stats: Stats

    def app(self, keys: ApiKeys) -> FastAPI:
        """The HTTP application.

        Raises:
            InvalidKeys: the file of `keys` cannot be used.
        """
        return build_app(self.service, keys, store=self.store, stats=self.stats)

    def use(self, config: RewardConfig) -> None:
        """Score by the recipe of `config` from the next request on.

        Raises:
            SignalNotFound: a signal of somebody else is not installed.
        """
        self.service.use(Recipe(config, self.judge))


@asynccontextmanager
async def assembled(config: RewardConfig) -> AsyncIterator[Assembly]:
    """The service of `config`, for one event loop.

    Raises:
        SignalNotFound: a signal of somebody else is not installed.
        JudgeKeyMissing: the environment does not hold the key of the judge's endpoint.
        StoreError: see `store.opening.open_store`.
    """
    async with AsyncExitStack() as stack:
        endpoint = None
        if config.judge is not None:
            endpoint = Judge(config.judge)
            stack.push_async_callback(endpoint.aclose)
        # Opened last, so that it is closed first: votes that are still being cast end before their endpoint does.
        store = await stack.enter_async_context(await open_store(config.store))
        judge = None if endpoint is None else JudgeSignals(endpoint, store.once)
        rewards = ComputedRewards() if config.store.kind == "none" else KeptRewards(store.once)
        service = RewardService(Recipe(config, judge), config.score_seconds, rewards)
        stats = Stats()
        await stack.enter_async_context(working(store.batches, service, stats))
        yield Assembly(service, store, judge, stats)
