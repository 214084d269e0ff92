"""Turns in lock step: all episodes of a batch sample their next action in one engine batch of fixed order.

Owns `LockStepEngine`, a `GenerationEngine` that waits until every episode still playing has asked, then submits the
requests sorted by id. Batch composition no longer depends on timing, which `--deterministic` needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.engine import Generation, GenerationEngine, Sampling

Request = tuple[Sequence[int], Sampling, str]
"""Prompt ids, sampling and request id."""


class BatchEngine(GenerationEngine, Protocol):
    """An engine that can sample a fixed batch."""

    async def generate_in_lock_step(self, requests: Sequence[Request]) -> list[Generation]: ...


@dataclass(slots=True)
class _Round:
    """One turn of every episode that still plays. All wait for the same task, and see the same error."""

    requests: dict[str, Request]
    complete: asyncio.Event
    turns: asyncio.Task[dict[str, Generation]]


class LockStepEngine:
    """Serves one batch of `episodes` episodes; each calls `leave` when it ends."""

    def __init__(self, engine: BatchEngine, episodes: int) -> None:
        self._engine = engine
        self._playing = episodes
        self._round: _Round | None = None

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Generation:
        current = self._round or self._begin()
        current.requests[request_id] = (tuple(prompt_ids), sampling, request_id)
        self._submit_when_complete()
        return (await asyncio.shield(current.turns))[request_id]

    async def token_logprobs(self, token_ids: Sequence[int], request_id: str) -> tuple[float, ...]:
        return await self._engine.token_logprobs(token_ids, request_id)

    def leave(self) -> None:
        """One episode has ended and will not ask again."""
        self._playing -= 1
        self._submit_when_complete()

    def _begin(self) -> _Round:
        requests: dict[str, Request] = {}
        complete = asyncio.Event()
        self._round = _Round(requests, complete, asyncio.create_task(self._play(requests, complete)))
        return self._round

    def _submit_when_complete(self) -> None:
        if self._round is not None and len(self._round.requests) == self._playing:
            self._round.complete.set()
            self._round = None

    async def _play(self, requests: dict[str, Request], complete: asyncio.Event) -> dict[str, Generation]:
        await complete.wait()
        ordered = sorted(requests)
        turns = await self._engine.generate_in_lock_step([requests[request_id] for request_id in ordered])
        return dict(zip(ordered, turns, strict=True))
