"""Routes that note how each of their requests was answered, and how fast.

Owns `measured`, which makes such a kind of route out of another. It sits outside of the key and the body's limits, so
refusals count as well.
"""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from reward_service.stats import Stats

_NEVER_ANSWERED = 500
"""Our own errors leave a route as exceptions; the application answers them with this status."""


def measured(route: type[APIRoute], stats: Stats) -> type[APIRoute]:
    """Routes like `route`, whose answers `stats` counts."""

    class MeasuredRoute(route):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            began = stats.now()
            status = _NEVER_ANSWERED

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await super().handle(scope, receive, noting)
            except HTTPException as error:
                # What is refused before the route's own handling, as a wrong method, becomes an answer further out.
                status = error.status_code
                raise
            finally:
                stats.answered(status, stats.now() - began)

    return MeasuredRoute
