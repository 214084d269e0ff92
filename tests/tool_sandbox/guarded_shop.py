"""A service of four routes behind the guard, and a client that speaks to it in process."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, JsonValue
from starlette.responses import StreamingResponse

from tool_sandbox.http import problems
from tool_sandbox.http.door import Door
from tool_sandbox.http.guard import Observer, caller, charge, guarded_by
from tool_sandbox.http.keys import ApiKeys, Scope

MAX_BODY_BYTES = 2 * 2**20
JSON = {"Content-Type": "application/json"}


class Order(BaseModel):
    items: list[JsonValue]


def shop(keys: ApiKeys, clock: Callable[[], int] = time.monotonic_ns, observe: Observer | None = None) -> FastAPI:
    """`POST /score` costs as many trajectories as it has items; `POST /broken` and `GET /cut` fail."""
    door = Door(keys, clock)
    app = FastAPI()
    problems.install(app, "the shop")
    score, read = (
        APIRouter(route_class=guarded_by(door, needs, MAX_BODY_BYTES, "order less", observe))
        for needs in (Scope.SCORE, Scope.READ)
    )

    @score.post("/score")
    async def order(http: Request, request: Order) -> dict[str, Any]:
        charge(http, len(request.items))
        return {"key": caller(http), "items": len(request.items)}

    @score.post("/broken")
    async def broken(request: Order) -> None:
        try:
            int(str(request.items[0]))
        except ValueError as error:
            raise RuntimeError(f"cannot sell {request.items}") from error

    @read.get("/models/{name}")
    async def models(name: str) -> list[str]:
        return []

    @read.get("/cut")
    async def cut() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("hush")

        return StreamingResponse(parts())

    app.include_router(score)
    app.include_router(read)
    return app


def client(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    """Speaks to `app` without a network; whatever the application raises reaches the test."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop", headers=headers)


def assert_refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """A problem document of RFC 9457 with its status inside and without `instance`; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = json.loads(response.content)
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert "instance" not in document
    assert document["status"] == status
    return document
