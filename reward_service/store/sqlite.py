"""The store in one SQLite file: write-ahead log, so that readers never wait for the writer.

A commit survives the end of the process at once, and a power cut after the next checkpoint: results that are lost
with the power are computed again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from reward_service.store.config import SqliteStore
from reward_service.store.database import READERS, Backend, Database
from reward_service.store.errors import StoreUnavailable
from reward_service.store.timing import Timing

_WRITERS = 1
"""SQLite has one writer. Threads that waited for its lock would sleep and poll; in a queue they take turns at once."""
_POLL_SECONDS = 0.02


def open_sqlite(config: SqliteStore, timing: Timing) -> Database:
    """Connect to the file; blocks.

    Raises:
        StoreUnavailable: the file cannot be made, is no database, or is locked.
    """
    path = config.path.absolute()
    name = f"SQLite {path}"
    try:
        _create(path)
        mode = _write_ahead_log(path, timing)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(name, f"cannot open the file ({error})") from error
    if mode != "wal":
        raise StoreUnavailable(name, f"journal_mode is {mode!r}, expected 'wal'; put the file on a local file system")
    engine = _engine(path, timing)
    return Database(Backend(name, engine, engine.execution_options(begin="BEGIN"), _WRITERS), timing)


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # For its owner only: batches are kept with the texts of their trajectories. SQLite gives its log the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _engine(path: Path, timing: Timing) -> Engine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        connect_args={"timeout": timing.lock_seconds, "check_same_thread": False},
        pool_size=READERS + _WRITERS,
        max_overflow=0,
        pool_timeout=timing.lock_seconds,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, record: object) -> None:
    # The driver would begin a transaction at its first write, after reading: too late to take the write lock in turn.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = NORMAL").close()
    connection.execute("PRAGMA foreign_keys = ON").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN IMMEDIATE"))


def _write_ahead_log(path: Path, timing: Timing) -> str:
    """Switch the file over, for good; the mode that it has then."""
    deadline = time.monotonic() + timing.lock_seconds
    with contextlib.closing(sqlite3.connect(path, timeout=timing.lock_seconds)) as connection:
        while True:
            try:
                return connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                # SQLite does not always wait for this lock, and another process may be switching the file over too.
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_SECONDS)
