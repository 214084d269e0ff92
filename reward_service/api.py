"""The HTTP API of the reward service, as a FastAPI application that any ASGI server can run.

Consumes a `RewardService` and the keys; produces `POST /v1/score`, `GET /v1/models`, `GET /healthz`, `GET /readyz`,
and the page for people with its numbers (`page.routes`).
Everything below `/v1` wants a key, if there are any.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from reward_service import problems
from reward_service.measured import measured
from reward_service.page.routes import page_router
from reward_service.service import RewardService
from reward_service.stats import Stats
from reward_service.wire import MAX_BODY_BYTES, ModelList, ScoreRequest, ScoreResponse
from tool_sandbox.http.guard import guarded_by
from tool_sandbox.http.keys import ApiKeys


def build_app(service: RewardService, keys: ApiKeys) -> FastAPI:
    """The application; `keys` without an entry lets every caller in."""
    # The interactive pages load scripts from the public internet; the schema itself stays at /openapi.json.
    app = FastAPI(title="StepTool rewards", version="1", docs_url=None, redoc_url=None)
    problems.install(app)
    stats = Stats()
    guarded = guarded_by(keys, MAX_BODY_BYTES, "send fewer trajectories in one request")
    app.include_router(_score_router(service, stats, measured(guarded, stats)))
    app.include_router(_models_router(service, guarded))
    app.include_router(page_router(stats, guarded))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        await service.check()
        return {"status": "ready", "reward_version": service.reward_version}

    return app


def _score_router(service: RewardService, stats: Stats, route: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=route)

    @router.post("/score")
    async def score(request: ScoreRequest) -> ScoreResponse:
        response = await service.score(request)
        stats.scored(response.results)
        return response

    return router


def _models_router(service: RewardService, route: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=route)

    @router.get("/models")
    async def models() -> ModelList:
        return ModelList(data=(service.card(),))

    return router
