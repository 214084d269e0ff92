"""A replica for tests to kill: claims one key, says so, and computes for ever. Run as a program."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter

from reward_service.store.config import StoreConfig
from reward_service.store.once import Outcome
from reward_service.store.opening import open_store
from reward_service.store.timing import Timing
from tests.reward_service.store.computing import SOON, key


async def main(config: str, lease_seconds: float) -> None:
    async def compute(positions: Sequence[int]) -> Sequence[Outcome]:
        print("computing", flush=True)
        await asyncio.Event().wait()
        return []

    settings = TypeAdapter(StoreConfig).validate_json(config)
    async with await open_store(settings, os.environ, Timing(lease_seconds=lease_seconds)) as store:
        await store.once.results([key("a"), key("b")], compute, SOON)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
