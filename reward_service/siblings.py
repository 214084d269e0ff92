"""Work that is done together and ends together. Owns `ending_together`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def ending_together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks of which none outlives the body: the first that fails ends the others, and its error is raised as it is.

    `asyncio.gather` leaves the others running, after everybody who could end them has gone.
    """
    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        failed = errors.exceptions[0]
    if failed is not None:
        raise failed
