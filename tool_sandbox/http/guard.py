"""What stands before the routes of a service: the key, the size of the body, and the number of requests at once.

Owns `guarded_by`, a kind of route that asks for the key before it reads a single byte of the body, and `Gate`.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tool_sandbox.http.keys import ApiKeys

RETRY_AFTER_SECONDS = 1
_CALLER = "caller"
_BODY_SECONDS = 30.0
"""For a body to arrive; whoever sends it a byte at a time holds a connection and nothing else."""


def guarded_by(keys: ApiKeys, max_body_bytes: int, advice: str) -> type[APIRoute]:
    """Routes that want a key, if there are any, and a body of at most `max_body_bytes`.

    `advice` tells the caller of a larger one what to do.
    """

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                setattr(request.state, _CALLER, authorise(keys, request.headers.get("authorization")))
                return await handle(StrictRequest(request, max_body_bytes, advice))

            return guarded

    return GuardedRoute


def authorise(keys: ApiKeys, authorization: str | None) -> str:
    """Name of the caller's key; empty where the service has none. Raises HTTP 401 for anybody else."""
    if not keys.digests:
        return ""
    name = keys.who(authorization)
    if name is None:
        detail = "no API key" if authorization is None else "unknown API key"
        raise HTTPException(401, f"{detail}; send 'Authorization: Bearer KEY'", {"WWW-Authenticate": "Bearer"})
    return name


def caller(request: Request) -> str:
    """Name of the key that a guarded request came with; empty where the service has none."""
    return getattr(request.state, _CALLER)


class StrictRequest(Request):
    """A request whose body is bounded in bytes and seconds, and holds only numbers that JSON knows."""

    def __init__(self, request: Request, max_body_bytes: int, advice: str) -> None:
        super().__init__(request.scope, request.receive)
        self._max_body_bytes = max_body_bytes
        self._advice = advice

    async def body(self) -> bytes:
        """The whole body. Raises HTTP 408 where it does not arrive in time."""
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await super().body()
        except TimeoutError as error:
            raise HTTPException(408, f"body: it did not arrive in {_BODY_SECONDS:g} s") from error

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, up to the limit."""
        received = 0
        async for chunk in super().stream():
            received += len(chunk)
            if received > self._max_body_bytes:
                raise HTTPException(413, f"body: over {self._max_body_bytes} bytes; {self._advice}")
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


class Gate:
    """A bound on the requests that are at work at once. One event loop; holds no queue, so that nobody waits unseen."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0

    def enter(self) -> Callable[[], None]:
        """Take a place; the result gives it back. Raises HTTP 429 where there is none."""
        if self._taken >= self._places:
            raise HTTPException(
                429,
                f"{self._taken} requests are at work, which is all that this service takes; try again",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._taken += 1
        return self._leave

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for as long as the block runs. Raises HTTP 429 where there is none."""
        leave = self.enter()
        try:
            yield
        finally:
            leave()

    def _leave(self) -> None:
        self._taken -= 1


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"found {name}; expected a finite number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("found a number beyond the range of a double; expected a finite number")
    return number
