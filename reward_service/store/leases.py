"""Holding a lease while something runs. Owns `renewed` and `given_back_on_failure`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from reward_service.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def given_back_on_failure(give_back: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `give_back` if the body does not come to its end."""
    try:
        yield
    except BaseException:
        try:
            await give_back()
        except StoreUnavailable as error:
            # What led here matters more, and the lease ends by itself.
            logger.warning("a lease was not given back, it will end: %s", error)
        raise


@contextlib.asynccontextmanager
async def renewed(renew: Callable[[], Awaitable[None]], every_seconds: float) -> AsyncIterator[None]:
    """Call `renew` again and again until the body ends."""
    renewal = asyncio.create_task(_renew(renew, every_seconds))
    try:
        yield
    finally:
        renewal.cancel()
        await asyncio.wait([renewal])
        if not renewal.cancelled():
            renewal.result()


async def _renew(renew: Callable[[], Awaitable[None]], every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await renew()
        except StoreUnavailable as error:
            # The work goes on: at worst somebody else does it too, and what is kept first stays.
            logger.warning("a lease was not renewed: %s", error)
