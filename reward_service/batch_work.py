"""Scores batches beside the requests of the moment: any replica takes the next chunk of a batch of its reward version.

Consumes chunks from the store; produces their results there. Owns `accept`, which cuts a batch into chunks, and
`working`, which keeps workers running. A chunk whose worker dies is taken up by another, one of which a scorer was lost
is tried again after a rest. After several tries, or where no service has had its version for long, it is answered with
errors, so that a batch always comes to an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from reward_service.batch_wire import CHUNK_TRAJECTORIES, BatchRequest
from reward_service.errors import RewardVersionMismatch
from reward_service.service import RewardService, may_fare_better
from reward_service.stats import Stats
from reward_service.store.batch_queries import Chunk
from reward_service.store.batches import BatchStore, Later
from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.wire import MAX_DEADLINE_MS, FailedItem, ItemError, ScoreOptions, ScoreRequest, ScoreResponse

logger = logging.getLogger(__name__)

WORKERS = 2
"""Per replica: one waits for a judge while the other does the rest."""
RESTS_SECONDS = (15.0, 120.0)
"""Of a chunk, after a try in which a scorer was lost: an outage of seconds, then one of a restart, costs no result."""
MAX_ATTEMPTS = len(RESTS_SECONDS) + 1
_CHUNK_SECONDS = 3600.0
"""Deadline of one chunk. Its measurements have their own, shorter ones; this ends what hangs all the same."""
WATCH_SECONDS = 60.0
"""Between two times that a service says which version it has, and looks for versions that none has."""
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
    return await batches.create(caller, found, [chunk.model_dump_json().encode() for chunk in _chunks(request, found)])


@asynccontextmanager
async def working(
    batches: BatchStore | None,
    service: RewardService,
    stats: Stats,
    rests: Sequence[float] = RESTS_SECONDS,
    watch_seconds: float = WATCH_SECONDS,
) -> AsyncIterator[None]:
    """Score batches while the body runs; without a store there are none. What is at work at the end is given back.

    `rests`: seconds after each try of a chunk, but the last, in which a scorer was lost. `watch_seconds`: between two
    looks for batches whose version no service has.
    """
    if batches is None:
        yield
        return
    workers = [_work(batches, service, stats, rests) for _ in range(WORKERS)]
    tasks = [asyncio.create_task(one) for one in (*workers, _watch(batches, service, stats, watch_seconds))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _work(batches: BatchStore, service: RewardService, stats: Stats, rests: Sequence[float]) -> None:
    async def score(chunk: Chunk) -> bytes | Later:
        response = await _scored(chunk, service, rests)
        return response if isinstance(response, Later) else _kept(response, stats)

    async def work() -> float:
        worked = await batches.work(service.reward_version, score, _CHUNK_SECONDS)
        return 0.0 if worked else _POLL_SECONDS

    await _for_ever(work)


async def _watch(batches: BatchStore, service: RewardService, stats: Stats, every_seconds: float) -> None:
    """Answer for versions that are found unattended twice in a row: after the machine slept, or the database was away,
    a service that has the version may have its say first.
    """
    unattended: frozenset[str] = frozenset()

    async def refuse(chunk: Chunk) -> bytes:
        request = ScoreRequest.model_validate_json(chunk.request)
        found = f"it had {request.reward_version!r} then, and has {service.reward_version!r}"
        reason = f"the service scores by another version since the batch was accepted ({found}); send it again"
        return _kept(_refused(request, reason), stats)

    async def watch() -> float:
        nonlocal unattended
        before, unattended = unattended, await batches.attend(service.reward_version)
        for version in before & unattended:
            while await batches.work(version, refuse, _CHUNK_SECONDS):
                pass
        return every_seconds

    await _for_ever(watch)


async def _for_ever(work: Callable[[], Awaitable[float]]) -> None:
    """Call `work`, which tells how many seconds to rest, again and again."""
    while True:
        try:
            pause = await work()
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
    except RewardVersionMismatch:
        # Another recipe came after the claim; services that still have this one may take the chunk.
        return Later(0.0)
    if may_fare_better(response) and chunk.attempt <= len(rests):
        return Later(rests[chunk.attempt - 1])
    return response


def _kept(response: ScoreResponse, stats: Stats) -> bytes:
    stats.scored(response.results)
    return response.model_dump_json().encode()


def _refused(request: ScoreRequest, reason: str) -> ScoreResponse:
    error = ItemError(kind="infrastructure", message=reason)
    results = tuple(FailedItem(id=item.id, error=error) for item in request.trajectories)
    return ScoreResponse(reward_version=request.reward_version or "", results=results)


def _chunks(request: BatchRequest, version: str) -> Iterator[ScoreRequest]:
    # Nobody waits for a chunk: a judge that is slow and well gets the longest time that there is.
    options = ScoreOptions(explain=request.options.explain, deadline_ms=MAX_DEADLINE_MS)
    for start in range(0, len(request.trajectories), CHUNK_TRAJECTORIES):
        part = request.trajectories[start : start + CHUNK_TRAJECTORIES]
        yield ScoreRequest(reward_version=version, options=options, trajectories=part)
