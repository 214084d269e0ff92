"""The real application behind a real socket on loopback, for as long as a test needs it."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService

_STOP_SECONDS = 10.0


def service(config: RewardConfig) -> RewardService:
    """The service that scores by this recipe."""
    return RewardService(Recipe(config))


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The URL of `app`, without a slash at its end."""
    # A listening socket takes connections before uvicorn runs, so nobody has to wait for it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
            assert not thread.is_alive()


def in_turn(*apps: ASGIApp) -> ASGIApp:
    """The applications behind one address, as replicas behind a load balancer."""
    turn = itertools.cycle(apps)

    async def balanced(scope: Scope, receive: Receive, send: Send) -> None:
        await next(turn)(scope, receive, send)

    return balanced
