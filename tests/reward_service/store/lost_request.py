"""A replica for tests to kill: begins to answer a request, says so, and answers for ever. Run as a program."""

from __future__ import annotations

import asyncio
import os
import sys

from pydantic import TypeAdapter

from reward_service.store.config import StoreConfig
from reward_service.store.idempotency import Fresh
from reward_service.store.opening import open_store
from reward_service.store.timing import Timing


async def main(config: str, lease_seconds: float) -> None:
    settings = TypeAdapter(StoreConfig).validate_json(config)
    async with await open_store(settings, os.environ, Timing(request_lease_seconds=lease_seconds)) as store:
        assert store.idempotency is not None
        entry = await store.idempotency.begin("alice", "k1", "f1")
        assert isinstance(entry, Fresh)
        async with store.idempotency.held(entry):
            print("answering", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
