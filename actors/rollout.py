"""One engine's worth of rollouts, without Ray: builds the parts from recipes and plays and scores episodes.

Owns `Rollout`. `rollout_actor` is the Ray shell around it, `pool` the set of them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from transformers import AutoTokenizer

from actors.config import RolloutConfig
from actors.episode import EpisodeRequest, Episodes
from actors.lock_step import LockStepEngine
from actors.parsing import ActionParser
from actors.prompt import build_chat_format
from actors.recipes import RewardRecipe, tool_specs
from actors.score_batcher import ScoreBatcher
from actors.scoring import ScoredTrajectory, score
from actors.vllm_engine import VllmEngine
from actors.weights import WeightManifest
from reward_service.client import RewardClient
from tool_sandbox.client import SandboxClient


class Rollout:
    """Episodes over one engine. `start` first, `stop` last."""

    def __init__(self, engine: VllmEngine, episodes: Episodes, rewards: RewardClient) -> None:
        self._engine = engine
        self._episodes = episodes
        self._rewards = rewards
        self._batcher = ScoreBatcher(functools.partial(score, rewards, specs=tool_specs))

    @classmethod
    async def start(cls, config: RolloutConfig, sandbox: SandboxClient, rewards: RewardRecipe) -> Rollout:
        """Bring the engine up within `config.engine.start_seconds`."""
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        chat = build_chat_format(tokenizer, config.prompt)
        async with asyncio.timeout(config.engine.start_seconds):
            engine = await VllmEngine.start(config.model, config.engine, [chat.end_of_turn_id])
        episodes = Episodes(
            engine=engine,
            sandbox=sandbox,
            chat=chat,
            parser=ActionParser(config.tool_parser, tokenizer),
            config=config.episode,
            specs=tool_specs,
            max_context=config.engine.max_model_len,
        )
        return cls(engine, episodes, rewards.connect())

    async def play(self, request: EpisodeRequest) -> ScoredTrajectory:
        """Play one episode and have it scored while others go on."""
        return await self._batcher.score(await self._episodes.play(request))

    async def play_in_lock_step(self, requests: Sequence[EpisodeRequest]) -> list[ScoredTrajectory]:
        """Play a batch whose results do not depend on timing; returned in the order of the requests."""
        engine = LockStepEngine(self._engine, len(requests))
        episodes = replace(self._episodes, engine=engine)

        async def one(request: EpisodeRequest) -> ScoredTrajectory:
            try:
                trajectory = await episodes.play(request)
            finally:
                engine.leave()
            return await self._batcher.score(trajectory)

        return list(await asyncio.gather(*(one(request) for request in requests)))

    async def token_logprobs(self, sequences: Sequence[Sequence[int]], label: str) -> list[tuple[float, ...]]:
        """Log-probabilities of given sequences under the weights now loaded; `label` makes the request ids unique."""
        calls = (self._engine.token_logprobs(ids, f"{label}/{i}") for i, ids in enumerate(sequences))
        return list(await asyncio.gather(*calls))

    async def load_weights(self, manifest: WeightManifest, buffer: np.ndarray, version: int) -> int:
        """Take new weights in flight; returns the version now served."""
        await self._engine.load_weights(manifest, buffer, version)
        return self._engine.version

    @property
    def version(self) -> int:
        return self._engine.version

    async def stop(self) -> None:
        await self._rewards.aclose()
        await self._engine.stop()
