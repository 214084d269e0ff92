"""Bring a database to the newest schema when it is opened; safe for any number of processes at once."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from reward_service.store.database import Database
from reward_service.store.errors import StoreTooNew, StoreUnavailable
from reward_service.store.timing import Timing

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_NUMBER = 7_301_744_502
"""Of PostgreSQL's advisory lock; any number that nobody else takes."""
# Alembic keeps what it works on in globals.
_one_upgrade = threading.Lock()


def upgrade(database: Database, timing: Timing) -> None:
    """Run the migrations that `database` lacks, in one transaction; blocks.

    Raises:
        StoreTooNew: the database has a revision that is not known here.
        StoreUnavailable: the database cannot be used now.
    """
    if not _one_upgrade.acquire(timeout=timing.operation_seconds):
        raise StoreUnavailable(database.name, f"another upgrade took over {timing.operation_seconds:g} s")
    try:
        database.transact(lambda connection: _upgrade(connection, database.name))
    finally:
        _one_upgrade.release()


def _upgrade(connection: Connection, name: str) -> None:
    if connection.dialect.name == "postgresql":
        # SQLite's transaction has the only write lock already.
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    config = Config()
    # A per cent sign would begin a substitution.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    _refuse_newer(connection, ScriptDirectory.from_config(config), name)
    command.upgrade(config, "head")


def _refuse_newer(connection: Connection, scripts: ScriptDirectory, name: str) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    for found in MigrationContext.configure(connection).get_current_heads():
        if found not in known:
            raise StoreTooNew(name, found, scripts.get_current_head() or "none")
