"""Turns in lock step: all episodes of a batch sample their next action in one engine batch of fixed order.

Owns `LockStepEngine`, a `GenerationEngine` that waits until every episode still playing has asked, then submits the
requests sorted by id. Batch composition no longer depends on timing, which `--deterministic` needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from actors.engine import Generation, GenerationEngine, Sampling


class BatchEngine(GenerationEngine, Protocol):
    """An engine that can sample a fixed batch."""

    async def generate_in_lock_step(
        self, requests: Sequence[tuple[Sequence[int], Sampling, str]]
    ) -> list[Generation]: ...


class LockStepEngine:
    """Serves one batch of `episodes` episodes; each calls `leave` when it ends."""

    def __init__(self, engine: BatchEngine, episodes: int) -> None:
        self._engine = engine
        self._playing = episodes
        self._waiting: dict[str, tuple[Sequence[int], Sampling, asyncio.Future[Generation]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Generation:
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = (tuple(prompt_ids), sampling, future)
        self._submit_when_complete()
        return await future

    async def token_logprobs(self, token_ids: Sequence[int], request_id: str) -> tuple[float, ...]:
        return await self._engine.token_logprobs(token_ids, request_id)

    def leave(self) -> None:
        """One episode has ended and will not ask again."""
        self._playing -= 1
        self._submit_when_complete()

    def _submit_when_complete(self) -> None:
        if self._waiting and len(self._waiting) == self._playing:
            batch, self._waiting = self._waiting, {}
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: dict[str, tuple[Sequence[int], Sampling, asyncio.Future[Generation]]]) -> None:
        ordered = sorted(batch.items())
        requests = [(prompt, sampling, request_id) for request_id, (prompt, sampling, _) in ordered]
        try:
            turns = await self._engine.generate_in_lock_step(requests)
        except Exception as error:
            for _, (_, _, future) in ordered:
                future.set_exception(error)
            return
        for turn, (_, (_, _, future)) in zip(turns, ordered, strict=True):
            future.set_result(turn)
