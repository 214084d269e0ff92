"""The reward service inside the process of a command. Owns whose fault it is when one cannot be opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cluster.errors import BadConfiguration
from reward_service.config import RewardConfig
from reward_service.errors import JudgeKeyMissing, SignalNotFound
from reward_service.store.errors import StoreError

if TYPE_CHECKING:
    from reward_service.assembly import Assembly


@asynccontextmanager
async def opened_service(config: RewardConfig) -> AsyncIterator[Assembly]:
    """The service of `config`, for one event loop.

    Raises:
        BadConfiguration: a signal, a key or a store that the configuration asks for is not there.
    """
    from reward_service.assembly import assembled

    service = assembled(config)
    try:
        running = await service.__aenter__()
    except (SignalNotFound, JudgeKeyMissing, StoreError) as error:
        raise BadConfiguration(str(error)) from error
    try:
        yield running
    finally:
        await service.__aexit__(None, None, None)
