"""Runs an application of this house with uvicorn until it is told to stop; requests at work may end first."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, Self

import uvicorn
from fastapi import FastAPI

from tool_sandbox.config import HttpConfig

_CONNECTIONS_PER_REQUEST = 8
"""Open connections for each request at work: clients keep some, and a flood is cut off before its bodies are read."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes, before its application is asked."""

    shutdown_seconds: float
    """For requests at work when it is told to stop."""
    connections: int | None = None
    """Open ones; more are refused by the server itself, in plain text. None leaves every refusal to the application."""
    message_bytes: int = 64 * 1024
    """Of one message of a web socket."""

    @classmethod
    def of(cls, config: HttpConfig) -> Self:
        """Those of the sandbox's HTTP face."""
        return cls(config.shutdown_seconds, _CONNECTIONS_PER_REQUEST * config.max_requests, config.max_body_bytes)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError` where the address cannot be had."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def server(app: FastAPI, limits: ServerLimits) -> uvicorn.Server:
    """A server that is not yet started; `run` takes the sockets that it listens at."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=limits.message_bytes,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=math.ceil(limits.shutdown_seconds),
        )
    )


def serve(app: FastAPI, limits: ServerLimits, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then return. In the main thread only."""
    serve_opened(lambda: nullcontext(app), limits, listener)


def serve_opened(
    opened: Callable[[], AbstractAsyncContextManager[FastAPI]], limits: ServerLimits, listener: socket.socket
) -> None:
    """As `serve`, an application that is opened in the server's own event loop and closed after its last answer."""

    async def run() -> None:
        async with opened() as app:
            await server(app, limits).serve([listener])

    # uvicorn raises the signal again when it is done: without a handler, SIGTERM would skip the caller's own clean-up.
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with suppress(KeyboardInterrupt, _Left):
            asyncio.run(run())
    finally:
        signal.signal(signal.SIGTERM, before)


class _Left(BaseException):
    """SIGTERM came."""


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise _Left
