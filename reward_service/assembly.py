"""From a configuration to a running service: the store is opened, judge and step model are connected, the recipe
is loaded.

Owns the order, and that what was opened is closed. The only module that brings them together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from reward_service.api import build_app
from reward_service.batch_work import working
from reward_service.config import RewardConfig
from reward_service.finding import ComputedRewards, KeptRewards
from reward_service.judge.judge import Judge
from reward_service.judged import JudgeSignals
from reward_service.learned.local import LocalStepModel
from reward_service.learned.model import StepModel
from reward_service.learned.signals import StepModelSignals
from reward_service.measuring import JudgeOfSteps, ModelOfSteps
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
    judge: JudgeOfSteps | None
    local_judge: JudgeSignals | None
    """The same, where it runs in this process: what it keeps can be looked at."""
    step_model: ModelOfSteps | None
    stats: Stats

    def app(self, keys: ApiKeys, max_requests: int | None = None, longest_seconds: float = math.inf) -> FastAPI:
        """The HTTP application; `max_requests` and `longest_seconds` as in `api.build_app`.

        Raises:
            InvalidKeys: the file of `keys` cannot be used.
        """
        limits = {"max_requests": max_requests, "longest_seconds": longest_seconds}
        return build_app(self.service, keys, store=self.store, stats=self.stats, **limits)

    def working(self) -> AbstractAsyncContextManager[None]:
        """Score batches while the body runs; for whoever serves the application, since nobody else is sent any."""
        return working(self.store.batches, self.service, self.stats)

    async def check_health(self) -> None:
        """Whether this process can still answer. Judge, step model and plug-ins are not asked: another process of the
        same kind would not find them again.

        Raises:
            ScorerUnavailable: the rules do not score a known trajectory.
            StoreUnavailable: the database cannot be used now.
        """
        if self.service.by_rules:
            await self.service.check()
        await self.store.check()

    def use(self, config: RewardConfig) -> None:
        """Score by the recipe of `config` from the next request on.

        Raises:
            SignalNotFound: a signal of somebody else is not installed.
            StepModelUnusable: the step model lacks an output that a signal wants.
        """
        self.service.use(Recipe(config, self.judge, self.step_model))


@asynccontextmanager
async def assembled(
    config: RewardConfig,
    step_model: StepModel | None = None,
    judge: JudgeOfSteps | None = None,
    stats: Stats | None = None,
) -> AsyncIterator[Assembly]:
    """The service of `config`, for one event loop.

    `step_model` and `judge` are those to ask; None has them in this process, where the configuration wants them. What
    such a judge takes is counted in `stats`.

    Raises:
        SignalNotFound: a signal of somebody else is not installed.
        JudgeKeyMissing: the environment does not hold the key of the judge's endpoint.
        StepModelUnusable: the step model is not there, or lacks an output that a signal wants.
        StoreError: see `store.opening.open_store`.
    """
    async with AsyncExitStack() as stack:
        stats = stats or Stats()
        endpoint = None
        if config.judge is not None and judge is None:
            endpoint = Judge(config.judge)
            stack.push_async_callback(endpoint.aclose)
        # Opened last, so that it is closed first: votes that are still being cast end before their endpoint does.
        store = await stack.enter_async_context(await open_store(config.store))
        local = None if endpoint is None else JudgeSignals(endpoint, store.once, stats.judged)
        asked = judge or local
        learned = await _connected(config, step_model)
        rewards = ComputedRewards() if config.store.kind == "none" else KeptRewards(store.once)
        service = RewardService(Recipe(config, asked, learned), config.score_seconds, rewards)
        yield Assembly(service, store, asked, local, learned, stats)


async def _connected(config: RewardConfig, model: StepModel | None) -> StepModelSignals | None:
    if config.step_model is None:
        return None
    return StepModelSignals(config.step_model, model or await asyncio.to_thread(LocalStepModel, config.step_model))
