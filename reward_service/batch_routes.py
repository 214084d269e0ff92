"""`/v1/score/batches` over HTTP: send, poll, read, cancel. A batch is known only to the key that sent it.

Consumes the store's batches; produces one router. A service that keeps nothing answers 501 and says what to configure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import WrapValidator
from starlette.exceptions import HTTPException

from reward_service.batch_wire import MAX_OPEN_BATCHES, BatchRequest, BatchResults, BatchStatus
from reward_service.batch_work import accept
from reward_service.idempotent import Answer, Answers, KeyHeader
from reward_service.service import RewardService
from reward_service.store.batches import BatchProgress, BatchStore
from reward_service.store.opening import Store
from reward_service.tolerance import one_by_one
from tool_sandbox.http.guard import caller, charge

POLL_SECONDS = 1
SentBatch = Annotated[BatchRequest, WrapValidator(one_by_one)]
BatchId = Annotated[str, Path(min_length=1, max_length=64)]


def batch_router(service: RewardService, store: Store | None, answers: Answers, guarded: type[APIRoute]) -> APIRouter:
    """The router; `guarded` is the kind of route that asks for the key. `store` is None where nothing is kept."""
    router = APIRouter(prefix="/v1/score/batches", route_class=guarded)

    @router.post("", status_code=202, response_model=BatchStatus)
    async def create(http: Request, request: SentBatch, idempotency_key: KeyHeader = None) -> Response:
        batches = _kept(store)

        async def work() -> Answer:
            await batches.expect_room(caller(http), MAX_OPEN_BATCHES)
            charge(http, len(request.trajectories))
            batch_id = await accept(batches, service, caller(http), request)
            status = _status(await batches.progress(caller(http), batch_id))
            return Answer(status.model_dump_json().encode(), 202)

        answer = await answers.answer(http, idempotency_key, work)
        answer.headers["Location"] = f"{http.url.path}/{BatchStatus.model_validate_json(bytes(answer.body)).id}"
        return answer

    @router.get("/{batch_id}")
    async def progress(http: Request, response: Response, batch_id: BatchId) -> BatchStatus:
        status = _status(await _kept(store).progress(caller(http), batch_id))
        if status.status == "running":
            response.headers["Retry-After"] = str(POLL_SECONDS)
        return status

    @router.get("/{batch_id}/results", response_model=BatchResults)
    async def results(http: Request, batch_id: BatchId) -> Response:
        batches = _kept(store)
        # Asked for before the results: whoever reads `done` has them all.
        found = await batches.progress(caller(http), batch_id)
        parts = batches.results(caller(http), found)
        # What fails before the first part is still answered as a problem.
        first = await anext(parts, None)
        return StreamingResponse(_joined(found, first, parts), media_type="application/json")

    @router.post("/{batch_id}/cancel")
    async def cancel(http: Request, batch_id: BatchId) -> BatchStatus:
        return _status(await _kept(store).cancel(caller(http), batch_id))

    return router


async def _joined(found: BatchProgress, first: bytes | None, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A `BatchResults` out of kept parts, none of which is read: all of a batch may be far larger than its request."""
    nothing = BatchResults(id=found.batch_id, status=found.state, reward_version=None, results=())
    if first is None:
        yield nothing.model_dump_json().encode()
        return
    version, results = _taken_apart(first)
    yield nothing.model_dump_json(include={"id", "status"}).encode().removesuffix(b"}")
    yield b',"reward_version":%b,"results":[%b' % (version, results)
    async for part in others:
        yield b",%b" % _taken_apart(part)[1]
    yield b"]}"


def _taken_apart(part: bytes) -> tuple[bytes, bytes]:
    """Version and results of a `ScoreResponse`, as the JSON that they are; it is written in the order of its fields."""
    head, _, results = part.partition(b',"results":[')
    return head.rpartition(b":")[2], results.removesuffix(b"]}")


def _kept(store: Store | None) -> BatchStore:
    if store is None or store.batches is None:
        raise HTTPException(
            501, "batches: this service keeps nothing; configure `store: {kind: sqlite, path: …}` or send to /v1/score"
        )
    return store.batches


def _status(found: BatchProgress) -> BatchStatus:
    return BatchStatus(
        id=found.batch_id,
        status=found.state,
        chunks=found.chunks,
        finished_chunks=found.finished,
        created_at=found.created_at,
        expires_at=found.expires_at,
    )
