"""A service with a store, several replicas of it if need be, as their clients meet them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from reward_service.assembly import assembled
from reward_service.config import RewardConfig
from reward_service.store.config import SqliteStore
from tool_sandbox.http.keys import ApiKeys, digest

KEYS = ApiKeys.parse(f"anna:{digest('hush')},bert:{digest('quiet')}")
DEADLINE_SECONDS = 30.0


def kept_in(path: Path, **changes: Any) -> RewardConfig:
    """The default recipe, with a store in a file."""
    return RewardConfig.model_validate({"store": SqliteStore(path=path / "rewards.db").model_dump(), **changes})


@asynccontextmanager
async def replica(config: RewardConfig) -> AsyncIterator[httpx.AsyncClient]:
    """One replica, and a client of it with the key of anna."""
    async with assembled(config) as assembly, assembly.working(), client_of(assembly.app(KEYS)) as http:
        yield http


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://rewards", auth=("anna", "hush")) as http:
        yield http


@contextmanager
def running(config: RewardConfig) -> Iterator[str]:
    """URL of a service of its own thread behind a real socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Served(config, listener)
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.end()


class _Served(threading.Thread):
    def __init__(self, config: RewardConfig, listener: socket.socket) -> None:
        super().__init__()
        self._config, self._listener = config, listener
        self._server: uvicorn.Server | None = None
        self._up = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with assembled(self._config) as assembly, assembly.working():
            app = assembly.app(KEYS)
            self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
            self._up.set()
            await self._server.serve(sockets=[self._listener])

    def end(self) -> None:
        assert self._up.wait(DEADLINE_SECONDS)
        assert self._server is not None
        self._server.should_exit = True
        self.join(DEADLINE_SECONDS)
        assert not self.is_alive()


async def finished(http: httpx.AsyncClient, batch: str) -> dict[str, Any]:
    """The status of a batch once nothing of it runs any more."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            status = (await http.get(f"/v1/score/batches/{batch}")).json()
            if status["status"] != "running":
                return status
            await asyncio.sleep(0.05)
