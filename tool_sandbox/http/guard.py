"""What stands before the routes of a service: the key, the kind and size of the body, the number of requests at once.

Owns `guarded_by`, a kind of route that asks for the key before it reads a single byte of the body, and `Gate`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from tool_sandbox.http import strict_json
from tool_sandbox.http.bodies import Body, body_of
from tool_sandbox.http.door import Door
from tool_sandbox.http.keys import Scope

RETRY_AFTER_SECONDS = 1
_CALLER = "caller"
_BODY_SECONDS = 30.0
"""For a body to arrive; whoever sends it a byte at a time holds a connection and nothing else."""

Observer = Callable[[str, int, float, str], None]
"""Takes the route's path as it was declared, the status, the seconds, and the name of the key or nothing."""


def guarded_by(
    door: Door,
    needs: Scope,
    max_body_bytes: int,
    advice: str,
    observe: Observer | None = None,
    gate: Gate | None = None,
) -> type[APIRoute]:
    """Routes behind `door`, for keys with the scope `needs`, and bodies of JSON of at most `max_body_bytes`, inflated.

    `advice` tells the caller of a larger one what to do. `observe` hears of every answer, refusals among them, but not
    of a request that nobody waits for any more. Each request holds a place of `gate` from before its body is read;
    where there is none, it is refused, and no key is charged for it.
    """

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                with nullcontext() if gate is None else gate.place():
                    name = door.admit(request.headers.get("authorization"), request.headers.get("origin"), needs)
                    setattr(request.state, _CALLER, _Caller(name, door))
                    return await handle(StrictRequest(request, max_body_bytes, advice))

            return guarded

        async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
            if observe is None:
                await super().handle(scope, receive, send)
            else:
                await _observed(super().handle, observe, self.path)(scope, receive, send)

    return GuardedRoute


def caller(request: Request) -> str:
    """Name of the key that a guarded request came with; empty where the service has none."""
    return getattr(request.state, _CALLER).name


def charge(request: Request, trajectories: int) -> None:
    """Charge the key that a guarded request came with. Raises HTTP 429 where its quota has too few left."""
    found: _Caller = getattr(request.state, _CALLER)
    found.door.charge(found.name, trajectories)


@dataclass(frozen=True, slots=True)
class _Caller:
    name: str
    door: Door


class StrictRequest(Request):
    """A request whose body is bounded in bytes and seconds, and is JSON and nothing else (`bodies`, `strict_json`)."""

    def __init__(self, request: Request, max_body_bytes: int, advice: str) -> None:
        super().__init__(request.scope, request.receive)
        self._max_body_bytes = max_body_bytes
        self._advice = advice

    async def body(self) -> bytes:
        """The whole body, inflated. Raises HTTP 408 where it does not arrive in time."""
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await super().body()
        except TimeoutError as error:
            raise HTTPException(408, f"body: it did not arrive in {_BODY_SECONDS:g} s") from error

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, inflated, up to the limit."""
        arrived, body = hasattr(self, "_body"), None
        async for chunk in super().stream():
            if arrived or not chunk:
                # Inflated before; or nothing, which needs no content type.
                yield chunk
                continue
            body = body or self._reader()
            yield body.feed(chunk)
        if body is not None:
            body.end()

    async def json(self) -> Any:
        """The body parsed. FastAPI answers a `json.JSONDecodeError` with a description of what is wrong."""
        return strict_json.loads(await self.body())

    def _reader(self) -> Body:
        return body_of(self.headers, self._max_body_bytes, self._advice)


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


def _observed(app: ASGIApp, observe: Observer, path: str) -> ASGIApp:
    async def observed(scope: Connection, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        status = 500

        async def heard(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        def report() -> None:
            found = scope.get("state", {}).get(_CALLER)
            observe(path, status, time.monotonic() - begun, found.name if found else "")

        try:
            await app(scope, receive, heard)
        except Exception as error:
            # What is refused before the handler, as a wrong method, becomes an answer further out.
            status = error.status_code if isinstance(error, HTTPException) else 500
            report()
            raise
        report()

    return observed
