"""The way in: from settings to a running store. Owns `Store` and `open_store`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, text

from reward_service.store import batch_queries, claims, idempotency
from reward_service.store.batches import BatchStore
from reward_service.store.config import NoStore, PostgresStore, SqliteStore, StoreConfig
from reward_service.store.database import Database
from reward_service.store.errors import StoreUnavailable
from reward_service.store.idempotency import Idempotency
from reward_service.store.migrate import upgrade
from reward_service.store.once import ComputeAlways, Once
from reward_service.store.postgres import open_postgres
from reward_service.store.shared_once import SharedOnce
from reward_service.store.sqlite import open_sqlite
from reward_service.store.timing import Timing

logger = logging.getLogger(__name__)

_DEFAULT_TIMING = Timing()


class Store:
    """An open store, for one event loop. Close it, or its claims stay until their leases end."""

    def __init__(self, database: Database | None, timing: Timing) -> None:
        """Needs a running loop. `database` is None where nothing is kept."""
        self.once: Once = ComputeAlways() if database is None else SharedOnce(database, timing)
        self.idempotency = None if database is None else Idempotency(database, timing)
        """None where nothing is kept."""
        self.batches = None if database is None else BatchStore(database, timing)
        """None where nothing is kept."""
        self._database = database
        self._sweeper = None if database is None else asyncio.create_task(_sweep(database, timing.sweep_seconds))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def check(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        if self._database is not None:
            await self._database.read(_ping)

    async def aclose(self) -> None:
        """End what runs, give claims back, close the database."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        await self.once.aclose()
        if self._database is not None:
            await self._database.aclose()


async def open_store(
    config: StoreConfig, environment: Mapping[str, str] = os.environ, timing: Timing = _DEFAULT_TIMING
) -> Store:
    """The store of `config`, with the newest schema. Any number of processes may open one database at once.

    Raises:
        StoreMisconfigured: the variable of the environment is not set, or holds no PostgreSQL URL.
        StoreTooNew: a newer version of this program has written the database.
        StoreUnavailable: the database cannot be used now.
    """
    if isinstance(config, NoStore):
        return Store(None, timing)
    database = await asyncio.to_thread(_open, config, environment, timing)
    return Store(database, timing)


def _open(config: SqliteStore | PostgresStore, environment: Mapping[str, str], timing: Timing) -> Database:
    match config:
        case SqliteStore():
            database = open_sqlite(config, timing)
        case PostgresStore():
            database = open_postgres(config, environment, timing)
    try:
        upgrade(database, timing)
    except BaseException:
        database.close()
        raise
    return database


async def _sweep(database: Database, every_seconds: float) -> None:
    while True:
        try:
            await database.write(_forget)
        except StoreUnavailable as error:
            # Nothing depends on it: what has expired is not found, whether it is there or not.
            logger.warning("expired entries stay until the next time: %s", error)
        await asyncio.sleep(every_seconds)


def _forget(connection: Connection) -> None:
    claims.forget_lapsed(connection)
    idempotency.forget_expired(connection)
    batch_queries.forget_expired(connection)


def _ping(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))
