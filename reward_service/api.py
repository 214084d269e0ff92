"""The HTTP API of the reward service, as a FastAPI application that any ASGI server can run.

Consumes a `RewardService`, the keys and a store; produces `POST /v1/score`, `GET /v1/models`, `GET /healthz`,
`GET /readyz`, the routes of batches (`batch_routes`) and of other protocols (`compat.routes`), and the page for people
with its numbers (`page.routes`).
Everything that scores wants a key with the scope `score` (batches: `batches`), if there are any keys; what only reads,
the scope `read`.
"""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import WrapValidator

from reward_service import openapi, problems
from reward_service.batch_routes import batch_router
from reward_service.batch_wire import MAX_BATCH_BYTES
from reward_service.compat.routes import Score, compat_router
from reward_service.idempotent import Answer, Answers, KeyHeader
from reward_service.model_card import ModelList
from reward_service.page.routes import page_router
from reward_service.readiness import Readiness
from reward_service.service import RewardService, may_fare_better
from reward_service.stats import Stats
from reward_service.store.opening import Store
from reward_service.tolerance import one_by_one
from reward_service.wire import MAX_BODY_BYTES, ScoreRequest, ScoreResponse
from tool_sandbox.http.door import Door
from tool_sandbox.http.guard import Gate, charge, guarded_by
from tool_sandbox.http.keys import ApiKeys, Scope

_SMALLER = "send fewer trajectories in one request, or a batch"
SentRequest = Annotated[ScoreRequest, WrapValidator(one_by_one)]


def build_app(
    service: RewardService,
    keys: ApiKeys,
    *,
    store: Store | None = None,
    stats: Stats | None = None,
    max_requests: int | None = None,
    longest_seconds: float = math.inf,
) -> FastAPI:
    """The application; `keys` without an entry lets every caller in.

    `store` keeps batches, and answers to requests that are sent again; None keeps nothing. `stats` may be shared with
    whoever scores beside the requests. `max_requests` bounds those at work at once, to score and about batches each by
    itself; more are refused with 429. None leaves that to what stands before the application, as Ray Serve's proxy.
    `longest_seconds` bounds the deadline of a request, where what stands before gives requests up.

    Raises:
        InvalidKeys: the file of `keys` cannot be used.
    """
    # The interactive pages load scripts from the public internet; the schema itself stays at /openapi.json. A redirect
    # would lead to wherever the Host header says.
    app = FastAPI(title="StepTool rewards", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    openapi.describe(app)
    door = Door(keys)
    stats = stats or Stats()
    readiness = Readiness(service, store)
    answers = Answers(store.idempotency if store else None)
    scoring = _scoring(door, stats, _gate(max_requests))
    score = _charged(service, stats, longest_seconds)
    app.include_router(_score_router(score, answers, scoring))
    app.include_router(batch_router(service, store, answers, _batches(door, _gate(max_requests))))
    app.include_router(_models_router(service, _reading(door)))
    app.include_router(compat_router(score, scoring))
    app.include_router(page_router(stats, _reading(door)))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready", "reward_version": await readiness.version()}

    return app


def _charged(service: RewardService, stats: Stats, longest_seconds: float) -> Score:
    async def score(http: Request, request: ScoreRequest) -> ScoreResponse:
        charge(http, len(request.trajectories))
        response = await service.score(request, longest_seconds)
        stats.scored(response.results)
        return response

    return score


def _score_router(charged: Score, answers: Answers, route: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=route)

    @router.post("/score", response_model=ScoreResponse)
    async def score(http: Request, request: SentRequest, idempotency_key: KeyHeader = None) -> Response:
        async def work() -> Answer:
            response = await charged(http, request)
            return Answer(response.model_dump_json().encode(), lasting=not may_fare_better(response))

        return await answers.answer(http, idempotency_key, work)

    return router


def _models_router(service: RewardService, route: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=route)

    @router.get("/models")
    async def models() -> ModelList:
        return ModelList(data=(service.card(),))

    return router


def _gate(places: int | None) -> Gate | None:
    return None if places is None else Gate(places)


def _scoring(door: Door, stats: Stats, gate: Gate | None) -> type[APIRoute]:
    def observe(path: str, status: int, seconds: float, name: str) -> None:
        stats.answered(status, seconds)

    return guarded_by(door, Scope.SCORE, MAX_BODY_BYTES, _SMALLER, observe, gate)


def _reading(door: Door) -> type[APIRoute]:
    return guarded_by(door, Scope.READ, MAX_BODY_BYTES, _SMALLER)


def _batches(door: Door, gate: Gate | None) -> type[APIRoute]:
    return guarded_by(door, Scope.BATCHES, MAX_BATCH_BYTES, "send several batches", gate=gate)
