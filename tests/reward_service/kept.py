"""A service with a store, several replicas of it if need be, as their clients meet them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

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
    async with assembled(config) as assembly, client_of(assembly.app(KEYS)) as http:
        yield http


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://rewards", auth=("anna", "hush")) as http:
        yield http


async def finished(http: httpx.AsyncClient, batch: str) -> dict[str, Any]:
    """The status of a batch once nothing of it runs any more."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            status = (await http.get(f"/v1/score/batches/{batch}")).json()
            if status["status"] != "running":
                return status
            await asyncio.sleep(0.05)
