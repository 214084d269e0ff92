"""The judge in a Serve deployment of its own, and the way to it from the replicas that ask. Loads Ray.

Votes are asked for and kept here, so that a replica of the service takes none with it when it is lost: whoever asks
next gets what its predecessor asked for, also where that is still under way. Consumes a `JudgeConfig` and the settings
of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from pydantic import TypeAdapter
from ray import serve
from ray.serve.handle import DeploymentHandle

from reward_service.errors import ScorerUnavailable
from reward_service.judge.config import JudgeConfig
from reward_service.judge.judge import Judge, fingerprint
from reward_service.judge.judgement import Spent
from reward_service.judged import JudgeSignals, telling_seconds
from reward_service.measuring import Told
from reward_service.scaling import shutdown_options
from reward_service.serve_handles import answer, first_answer
from reward_service.service import PROBE
from reward_service.store.config import StoreConfig
from reward_service.store.opening import open_store
from reward_service.wire import TrajectoryItem

_SCORER = "judge"
_HEALTH_SECONDS = 10.0
_AT_WORK = 2
"""Trajectories in a replica for each request that its endpoint takes at once: some are read while others are judged."""
_IN_FLIGHT = 8
"""The same for one replica that asks. Serve counts the queue of each asker apart, so its bound is never met."""
_STORE: TypeAdapter[StoreConfig] = TypeAdapter(StoreConfig)


@serve.deployment(name="judge", health_check_period_s=_HEALTH_SECONDS)
class JudgeReplica:
    """A shell around `JudgeSignals`. Where votes are kept, those under way go on when their asker has gone."""

    async def __init__(self, judge: Mapping[str, Any], store: Mapping[str, Any]) -> None:
        self._stack = AsyncExitStack()
        self._judge = Judge(JudgeConfig.model_validate(judge))
        self._stack.push_async_callback(self._judge.aclose)
        # Opened last, so that it is closed first: votes that are still being cast end before their endpoint does.
        kept = await self._stack.enter_async_context(await open_store(_STORE.validate_python(store)))
        self._unreported = Spent()
        self._signals = JudgeSignals(self._judge, kept.once, self._cast)

    async def __del__(self) -> None:
        """Called by Serve when the replica has answered what it accepted."""
        await self._stack.aclose()

    async def fingerprint(self) -> str:
        """Of the judge that this replica is."""
        return self._judge.fingerprint

    def _cast(self, spent: Spent) -> None:
        self._unreported += spent

    def _report(self) -> Spent:
        """What was spent since the last report, for whomever."""
        spent, self._unreported = self._unreported, Spent()
        return spent

    async def told(self, item: TrajectoryItem) -> tuple[str, Told | ScorerUnavailable, Spent]:
        """The judge's fingerprint, what it says of every step of `item`, and what was spent since the last answer.

        A loss is an answer: raised, it would arrive inside an error of Ray's, with the traceback for its text.
        """
        try:
            told: Told | ScorerUnavailable = await self._signals.told(item)
        except ScorerUnavailable as error:
            told = error
        return self._judge.fingerprint, told, self._report()

    async def check_health(self) -> None:
        """Called by Serve: judges a trajectory of which nothing has to be asked."""
        await self._judge.judge(PROBE)


def judge_application(config: JudgeConfig, store: StoreConfig, shutdown_seconds: float) -> serve.Application:
    """The deployment, bound; as an argument of another deployment it becomes a handle.

    `shutdown_seconds`: what a replica may take to answer what it accepted before it ends.
    """
    deployment = JudgeReplica.options(
        **config.replica_options,
        **shutdown_options(shutdown_seconds),
        max_ongoing_requests=_AT_WORK * config.requests_in_flight,
        max_queued_requests=_IN_FLIGHT * config.requests_in_flight,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": 0},
    )
    return deployment.bind(config.model_dump(mode="json"), store.model_dump(mode="json"))


class RemoteJudge:
    """A `JudgeOfSteps` behind a handle, for one event loop."""

    def __init__(
        self, handle: DeploymentHandle, config: JudgeConfig, spent: Callable[[Spent], None] = lambda _: None
    ) -> None:
        self._handle = handle
        self._spent = spent
        self._fingerprint = fingerprint(config)
        self._seconds = telling_seconds(config)
        self._places = asyncio.Semaphore(_IN_FLIGHT * config.requests_in_flight)

    @classmethod
    async def connected(
        cls,
        handle: DeploymentHandle,
        config: JudgeConfig,
        seconds: float,
        spent: Callable[[Spent], None] = lambda _: None,
    ) -> RemoteJudge:
        """Wait for a replica of the deployment, at most `seconds`. `spent` hears what its votes took.

        Raises:
            ScorerUnavailable: none came up.
        """
        await first_answer(handle.fingerprint.remote(), _SCORER, seconds)
        return cls(handle, config, spent)

    async def told(self, item: TrajectoryItem) -> Told:
        """What the judge says of every step.

        Raises:
            JudgeUnavailable: its endpoint is down, refuses, or is too slow.
            ScorerUnavailable: its deployment or its store was lost or is too slow, or it is another judge by now.
        """
        try:
            async with asyncio.timeout(self._seconds), self._places:
                found, told, spent = await answer(self._handle.told.remote(item), _SCORER)
        except TimeoutError as error:
            raise ScorerUnavailable(
                f"judge: no votes on trajectory {item.id!r} within {self._seconds:g} s; give it more replicas, or "
                "allow more time in judge.vote_seconds"
            ) from error
        self._spent(spent)
        if found != self._fingerprint:
            raise ScorerUnavailable(
                f"judge: found {found[:12]}, expected {self._fingerprint[:12]}, as while another configuration is "
                "being deployed; ask again when `serve status` shows it running"
            )
        if isinstance(told, ScorerUnavailable):
            raise told
        return told
