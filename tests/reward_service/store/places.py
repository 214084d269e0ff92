"""Where a store of the tests is kept, and how to reach behind it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reward_service.store.config import PostgresStore, SqliteStore
from tests.reward_service.store.postgres_server import PostgresServer

URL_VARIABLE = "STEPTOOL_TEST_STORE_URL"


class Place(Protocol):
    """A database, before and beside any store."""

    @property
    def config(self) -> SqliteStore | PostgresStore: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement, run behind the store's back."""
        ...

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep every store from writing."""
        ...


@dataclass(frozen=True, slots=True)
class SqlitePlace:
    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> SqliteStore:
        return SqliteStore(path=self.path)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    server: PostgresServer
    database: str

    @property
    def config(self) -> PostgresStore:
        return PostgresStore(url_variable=URL_VARIABLE)

    @property
    def environment(self) -> Mapping[str, str]:
        return {URL_VARIABLE: self.server.url(self.database)}

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.server.connect(self.database)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with contextlib.closing(self.server.connect(self.database)) as connection, connection.transaction():
            connection.execute("LOCK TABLE results, idempotency, batches, batch_chunks")
            yield
