"""The Ray actor around `Rollout`: a thin asynchronous shell with a name, a health check and a deadline on starting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from actors.config import RolloutConfig
from actors.episode import EpisodeRequest
from actors.recipes import RewardRecipe, SandboxRecipe
from actors.scoring import ScoredTrajectory
from actors.weights import WeightManifest

if TYPE_CHECKING:
    from actors.rollout import Rollout


class RolloutActor:
    """One vLLM engine and the episodes that it plays. Build with `ray.remote(RolloutActor).options(...)`."""

    def __init__(self, config: RolloutConfig, sandbox: SandboxRecipe, rewards: RewardRecipe) -> None:
        self._config = config
        self._sandbox = sandbox
        self._rewards = rewards
        self._rollout: Rollout | None = None

    def __repr__(self) -> str:
        return "RolloutActor"

    async def start(self) -> int:
        """Bring the engine up; returns the policy version that it serves."""
        # vLLM takes seconds to import; the driver, which only names this class, need not.
        from actors.rollout import Rollout

        if self._rollout is None:
            self._rollout = await Rollout.start(self._config, self._sandbox.connect(), self._rewards)
        return self._rollout.version

    async def play(self, request: EpisodeRequest) -> ScoredTrajectory:
        return await self._running().play(request)

    async def play_in_lock_step(self, requests: Sequence[EpisodeRequest]) -> list[ScoredTrajectory]:
        return await self._running().play_in_lock_step(requests)

    async def token_logprobs(self, sequences: Sequence[Sequence[int]], label: str) -> list[tuple[float, ...]]:
        return await self._running().token_logprobs(sequences, label)

    async def load_weights(self, manifest: WeightManifest, reference: list[ray.ObjectRef], version: int) -> int:
        """Fetch the buffer from the object store (wrapped in a list so that Ray passes the reference) and load it."""
        buffer: np.ndarray = await reference[0]
        return await self._running().load_weights(manifest, buffer, version)

    async def stop(self) -> None:
        if self._rollout is not None:
            await self._rollout.stop()
            self._rollout = None

    def ping(self) -> str:
        return "pong"

    async def apply(self, func: Callable[..., Any], *_: Any, **arguments: Any) -> Any:
        """Run `func(self, **arguments)`; the interface that RLlib's actor manager calls, made awaitable."""
        result = func(self, **arguments)
        return await result if inspect.isawaitable(result) else result

    def _running(self) -> Rollout:
        if self._rollout is None:
            raise RuntimeError("rollout actor: start() must have returned before it can be used")
        return self._rollout
