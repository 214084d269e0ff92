"""Scores batches beside the requests of the moment: any replica takes the next chunk of whatever batch has one.

Consumes chunks from the store; produces their results there. Owns `accept`, which cuts a batch into chunks, and
`working`, which keeps workers running. A chunk whose worker dies is taken up by another, one of which a scorer was lost
is tried again after a rest. After several tries it is answered with errors, so that a batch always comes to an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from reward_service.batch_wire import CHUNK_TRAJECTORIES, BatchRequest
from reward_service.errors import RewardVersionMismatch
from reward_service.service import RewardService, may_fare_better
from reward_service.stats import Stats
from reward_service.store.batch_queries import Chunk
from reward_service.store.batches import BatchStore, Later
from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.wire import FailedItem, ItemError, ScoreOptions, ScoreRequest, ScoreResponse

logger = logging.getLogger(__name__)

WORKERS = 2
"""Per replica: one waits for a judge while the other does the rest."""
RESTS_SECONDS = (15.0, 120.0)
"""Of a chunk, after a try in which a scorer was lost: an outage of seconds, then one of a restart, costs no result."""
MAX_ATTEMPTS = len(RESTS_SECONDS) + 1
_CHUNK_SECONDS = 3600.0
"""Deadline of one chunk. Its measurements have their own, shorter ones; this ends what hangs all the same."""
_POLL_SECONDS = 0.5
_PAUSE_SECONDS = 5.0
"""After an error of the store or of ours."""


async def accept(batches: BatchStore, service: RewardService, caller: str, request: BatchRequest) -> str:
    """Keep a batch to be scored by the version that the service has now; its id.

    Raises:
        RewardVersionMismatch: the request insists on another version.
        StoreUnavailable: the database cannot be used now.
    """
    found = service.reward_version
    if request.reward_version not in (None, found):
        raise RewardVersionMismatch(expected=request.reward_version, found=found)
    return await batches.create(caller, [chunk.model_dump_json().encode() for chunk in _chunks(request, found)])


@asynccontextmanager
async def working(
    batches: BatchStore | None, service: RewardService, stats: Stats, rests: Sequence[float] = RESTS_SECONDS
) -> AsyncIterator[None]:
    """Score batches while the body runs; without a store there are none. What is at work at the end is given back.

    `rests`: seconds after each try of a chunk, but the last, in which a scorer was lost.
    """
    if batches is None:
        yield
        return
    workers = [asyncio.create_task(_work(batches, service, stats, rests)) for _ in range(WORKERS)]
    try:
        yield
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


async def _work(batches: BatchStore, service: RewardService, stats: Stats, rests: Sequence[float]) -> None:
    async def score(chunk: Chunk) -> bytes | Later:
        response = await _scored(chunk, service, rests)
        if isinstance(response, Later):
            return response
        stats.scored(response.results)
        return response.model_dump_json().encode()

    while True:
        try:
            pause = 0.0 if await batches.work(score, _CHUNK_SECONDS) else _POLL_SECONDS
        except (StoreUnavailable, ResultsLate) as error:
            logger.warning("batches wait: %s", error)
            pause = _PAUSE_SECONDS
        except Exception as error:  # noqa: BLE001 - logged, and the chunk is tried again or answered with errors
            # Not its message: it may quote a trajectory.
            logger.error("a chunk of a batch failed and is tried again: %s", type(error).__qualname__)
            pause = _PAUSE_SECONDS
        await asyncio.sleep(pause)


async def _scored(chunk: Chunk, service: RewardService, rests: Sequence[float]) -> ScoreResponse | Later:
    request = ScoreRequest.model_validate_json(chunk.request)
    if chunk.attempt > len(rests) + 1:
        return _refused(request, f"given up after {len(rests) + 1} tries, the last of which ended its worker")
    try:
        response = await service.score(request)
    except RewardVersionMismatch as error:
        return _refused(request, f"the service scores by another version since the batch was accepted ({error})")
    if may_fare_better(response) and chunk.attempt <= len(rests):
        return Later(rests[chunk.attempt - 1])
    return response


def _refused(request: ScoreRequest, reason: str) -> ScoreResponse:
    error = ItemError(kind="infrastructure", message=reason)
    results = tuple(FailedItem(id=item.id, error=error) for item in request.trajectories)
    return ScoreResponse(reward_version=request.reward_version or "", results=results)


def _chunks(request: BatchRequest, version: str) -> Iterator[ScoreRequest]:
    options = ScoreOptions(explain=request.options.explain)
    for start in range(0, len(request.trajectories), CHUNK_TRAJECTORIES):
        part = request.trajectories[start : start + CHUNK_TRAJECTORIES]
        yield ScoreRequest(reward_version=version, options=options, trajectories=part)
