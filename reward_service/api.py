"""The HTTP API of the reward service, as a FastAPI application that any ASGI server can run.

Consumes a `RewardService` and the keys; produces `POST /v1/score`, `GET /v1/models`, `GET /healthz`, `GET /readyz`.
Everything below `/v1` wants a key, if there are any.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from reward_service import problems
from reward_service.auth import ApiKeys
from reward_service.service import RewardService
from reward_service.wire import MAX_BODY_BYTES, ModelList, ScoreRequest, ScoreResponse


def build_app(service: RewardService, keys: ApiKeys) -> FastAPI:
    """The application; `keys` without an entry lets every caller in."""
    # The interactive pages load scripts from the public internet; the schema itself stays at /openapi.json.
    app = FastAPI(title="StepTool rewards", version="1", docs_url=None, redoc_url=None)
    problems.install(app)
    app.include_router(_guarded_router(service, keys))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        await service.check()
        return {"status": "ready", "reward_version": service.reward_version}

    return app


def _guarded_router(service: RewardService, keys: ApiKeys) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=_guarded_by(keys))

    @router.post("/score")
    async def score(request: ScoreRequest) -> ScoreResponse:
        return await service.score(request)

    @router.get("/models")
    async def models() -> ModelList:
        return ModelList(data=(service.card(),))

    return router


def _guarded_by(keys: ApiKeys) -> type[APIRoute]:
    """A route that looks at the key before it reads a single byte of the body."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                _authorise(keys, request.headers.get("authorization"))
                return await handle(StrictRequest(request.scope, request.receive))

            return guarded

    return GuardedRoute


def _authorise(keys: ApiKeys, authorization: str | None) -> None:
    if not keys.digests or keys.who(authorization) is not None:
        return
    detail = "no API key" if authorization is None else "unknown API key"
    raise HTTPException(401, f"{detail}; send 'Authorization: Bearer KEY'", {"WWW-Authenticate": "Bearer"})


class StrictRequest(Request):
    """A request whose body is bounded in bytes and holds only numbers that JSON knows."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, up to the limit."""
        received = 0
        async for chunk in super().stream():
            received += len(chunk)
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"body: over {MAX_BODY_BYTES} bytes; send fewer trajectories in one request")
            yield chunk

    async def json(self) -> Any:
        """The body parsed by RFC 8259, which has no NaN."""
        body = await self.body()
        try:
            return json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            # FastAPI answers only a JSONDecodeError with a description of what is wrong.
            raise json.JSONDecodeError(str(error), "", 0) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"found {name}; expected a finite number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("found a number beyond the range of a double; expected a finite number")
    return number
