"""The step model in a Serve deployment of its own, and the way to it from the replicas that ask. Loads Ray.

Texts of all requests that wait are put together into batches by their tokens. Consumes a `StepModelConfig`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from reward_service.errors import ScorerUnavailable
from reward_service.learned.batching import padded_tokens
from reward_service.learned.config import StepModelConfig
from reward_service.learned.local import load_classifier
from reward_service.learned.model import ModelFacts, Row
from reward_service.scaling import shutdown_options
from reward_service.serve_handles import answer, first_answer

_SCORER = "step model"
_ONGOING_TRAJECTORIES = 32
"""Per replica; their texts wait for a batch inside of it."""
_CALLS_IN_FLIGHT = 128
"""Of one replica that asks. Serve counts the queue of each asker apart, so its bound is never met."""
_BATCH_WAIT_SECONDS = 0.005
_HEALTH_SECONDS = 10.0
_SHUTDOWN_MARGIN_SECONDS = 5.0
_KNOWN_TEXT = 'Task: "health"\nAnswer 0: "42"'
_KNOWN_TOLERANCE = 1e-3
"""Of an output that was computed before; weights that went bad differ by more than rounding does."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a replica answers."""

    rows: Sequence[Row]
    digest: str
    """Of the files of the model that scored."""


@serve.deployment(
    name="step_model",
    max_ongoing_requests=_ONGOING_TRAJECTORIES,
    max_queued_requests=_CALLS_IN_FLIGHT,
    health_check_period_s=_HEALTH_SECONDS,
)
class StepModelReplica:
    """One loaded model. It goes on scoring what it accepted when Serve stops it."""

    async def __init__(self, config: Mapping[str, Any]) -> None:
        settings = StepModelConfig.model_validate(config)
        self._classifier = await asyncio.to_thread(load_classifier, settings)
        batched: Any = self._rows
        batched.set_max_batch_size(settings.batch_tokens)
        self._known = self._classifier.encoded([_KNOWN_TEXT])
        self._healthy_row = await asyncio.to_thread(self._classifier.rows, self._known)

    async def facts(self) -> ModelFacts:
        """Of the loaded model."""
        return self._classifier.facts

    async def scores(self, texts: Sequence[str]) -> Scores:
        """One row for each text, in order."""
        encoded = await asyncio.to_thread(self._classifier.encoded, texts)
        rows = await asyncio.gather(*(self._rows(one) for one in encoded))
        return Scores(rows, self._classifier.facts.digest)

    @serve.batch(batch_size_fn=padded_tokens, batch_wait_timeout_s=_BATCH_WAIT_SECONDS)
    async def _rows(self, batch: list[list[int]]) -> list[list[float]]:
        return await asyncio.to_thread(self._classifier.rows, batch)

    async def check_health(self) -> None:
        """Called by Serve: scores a known text beside the queue, which may be long, and expects the known output."""
        (found,) = await asyncio.to_thread(self._classifier.rows, self._known)
        (expected,) = self._healthy_row
        if not all(math.isclose(a, b, abs_tol=_KNOWN_TOLERANCE) for a, b in zip(found, expected, strict=True)):
            raise RuntimeError(f"step model: scores a known text as {found}; at its start it was {expected}")


def step_model_application(config: StepModelConfig) -> serve.Application:
    """The deployment, bound; as an argument of another deployment it becomes a handle."""
    deployment = StepModelReplica.options(
        **config.replica_options,
        **shutdown_options(config.seconds + _SHUTDOWN_MARGIN_SECONDS),
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    )
    return deployment.bind(config.model_dump(mode="json"))


class RemoteStepModel:
    """A `StepModel` behind a handle, for one event loop."""

    def __init__(self, handle: DeploymentHandle, facts: ModelFacts) -> None:
        self.facts = facts
        self._handle = handle
        self._places = asyncio.Semaphore(_CALLS_IN_FLIGHT)

    @classmethod
    async def connected(cls, handle: DeploymentHandle, seconds: float) -> RemoteStepModel:
        """Wait for a replica of the deployment, at most `seconds`.

        Raises:
            ScorerUnavailable: none came up.
        """
        return cls(handle, await first_answer(handle.facts.remote(), _SCORER, seconds))

    async def scores(self, texts: Sequence[str]) -> Sequence[Row]:
        """One row for each text, in order.

        Raises:
            ScorerUnavailable: the deployment was lost, or runs another model by now.
        """
        async with self._places:
            found = await answer(self._handle.scores.remote(list(texts)), _SCORER)
        if found.digest != self.facts.digest:
            raise ScorerUnavailable(
                f"step model: its files changed from {self.facts.digest[:12]} to {found.digest[:12]} while the service "
                "runs; deploy the service again, so that its reward version changes with them"
            )
        return found.rows
