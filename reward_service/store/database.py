"""A database that async code can use: its own few threads, deadlines, and one kind of error.

Owns `Database`, which runs a function on a connection inside one transaction. Knows no table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reward_service.store.errors import StoreUnavailable
from reward_service.store.timing import Timing

T = TypeVar("T")
Work = Callable[[Connection], T]

READERS = 4
_OUR_BUGS = (ProgrammingError, IntegrityError, DataError, NotSupportedError)
_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True, repr=False)
class Backend:
    """One kind of database, connected."""

    name: str
    """For messages; without a credential."""
    writing: Engine
    """Each transaction on it may write."""
    reading: Engine
    """The same pool of connections, with less work for a single query."""
    writers: int
    """Transactions that may write at the same time."""
    secrets: tuple[str, ...] = ()
    """Never to be seen in a message."""


class Database:
    """Runs work on connections in threads; safe for many tasks of one event loop."""

    def __init__(self, backend: Backend, timing: Timing) -> None:
        self.name = backend.name
        self._backend = backend
        self._timing = timing
        # Reads have their own threads, or each cache hit would queue behind the writers.
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._writers = ThreadPoolExecutor(backend.writers, "store-write")

    async def read(self, work: Work[T]) -> T:
        """What `work` returns; it must do nothing but one query.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        return await self._in_thread(self._readers, self._backend.reading, work)

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once its transaction is committed.

        Raises:
            StoreUnavailable: the database cannot be used now; whether the work was done is unknown.
        """
        return await self._in_thread(self._writers, self._backend.writing, work)

    def transact(self, work: Work[T]) -> T:
        """As `write`, in the calling thread."""
        return self._transaction(self._backend.writing, work)

    async def aclose(self) -> None:
        """Wait for the work that began, drop the rest, and close all connections."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As `aclose`, in the calling thread."""
        for threads in (self._readers, self._writers):
            threads.shutdown(wait=True, cancel_futures=True)
        self._backend.writing.dispose()

    async def _in_thread(self, threads: ThreadPoolExecutor, engine: Engine, work: Work[T]) -> T:
        limit = asyncio.timeout(self._timing.operation_seconds)
        try:
            async with limit:
                return await asyncio.get_running_loop().run_in_executor(threads, self._transaction, engine, work)
        except TimeoutError:
            if not limit.expired():
                raise
            reason = f"no answer within {self._timing.operation_seconds:g} s"
            raise StoreUnavailable(self.name, reason) from None

    def _transaction(self, engine: Engine, work: Work[T]) -> T:
        try:
            with engine.begin() as connection:
                return work(connection)
        except _OUR_BUGS:
            raise
        except (DBAPIError, PoolTimeout) as error:
            # Without its cause: the driver's own error may quote what it connects with.
            raise StoreUnavailable(self.name, self._reason(error)) from None

    def _reason(self, error: DBAPIError | PoolTimeout) -> str:
        """What the driver says, on one line, without SQL, without values and without secrets."""
        source = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        text = " ".join(str(source).split())
        for secret in self._backend.secrets:
            text = text.replace(secret, "***")
        return f"{type(source).__name__}: {text[:_REASON_CHARACTERS]}"
