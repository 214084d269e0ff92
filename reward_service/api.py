"""The HTTP API of the reward service, as a FastAPI application that any ASGI server can run.

Consumes a `RewardService` and the keys; produces `POST /v1/score`, `GET /v1/models`, `GET /healthz`, `GET /readyz`.
Everything below `/v1` wants a key, if there are any, and so do the routes of other protocols (`compat.routes`).
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from reward_service import problems
from reward_service.compat.routes import compat_router
from reward_service.service import RewardService
from reward_service.wire import MAX_BODY_BYTES, ModelList, ScoreRequest, ScoreResponse
from tool_sandbox.http.guard import guarded_by
from tool_sandbox.http.keys import ApiKeys


def build_app(service: RewardService, keys: ApiKeys) -> FastAPI:
    """The application; `keys` without an entry lets every caller in."""
    # The interactive pages load scripts from the public internet; the schema itself stays at /openapi.json.
    app = FastAPI(title="StepTool rewards", version="1", docs_url=None, redoc_url=None)
    problems.install(app)
    app.include_router(_guarded_router(service, keys))
    app.include_router(compat_router(lambda _, request: service.score(request), _guarded(keys)))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        await service.check()
        return {"status": "ready", "reward_version": service.reward_version}

    return app


def _guarded_router(service: RewardService, keys: ApiKeys) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=_guarded(keys))

    @router.post("/score")
    async def score(request: ScoreRequest) -> ScoreResponse:
        return await service.score(request)

    @router.get("/models")
    async def models() -> ModelList:
        return ModelList(data=(service.card(),))

    return router


def _guarded(keys: ApiKeys) -> type[APIRoute]:
    return guarded_by(keys, MAX_BODY_BYTES, "send fewer trajectories in one request")
