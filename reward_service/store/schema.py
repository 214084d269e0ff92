"""The tables, as the queries see them. `migrations/` builds them; a test holds the two together.

Times are seconds since 1970 by the database's own clock: replicas on different machines need not agree on the time.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

metadata = MetaData()

results = Table(
    "results",
    metadata,
    Column("kind", String, nullable=False),
    Column("version", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("value", LargeBinary),
    Column("owner", String),
    Column("lease_ends", Double),
    PrimaryKeyConstraint("kind", "version", "digest", "ordinal", name="results_key"),
)
"""A result, or the claim of who computes it: `value` is null until it is there, `owner` and `lease_ends` are after."""
Index(
    "results_claimed",
    results.c.lease_ends,
    sqlite_where=results.c.value.is_(None),
    postgresql_where=results.c.value.is_(None),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("caller", String, nullable=False),
    Column("idempotency_key", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("lease_ends", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("status", Integer),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("caller", "idempotency_key", name="idempotency_key"),
)
"""A request that is in flight until it has a `status`, and its answer from then on."""
Index("idempotency_expiry", idempotency.c.expires_at)

batches = Table(
    "batches",
    metadata,
    Column("id", String, nullable=False),
    Column("caller", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("cancelled_at", Double),
    PrimaryKeyConstraint("id", name="batches_key"),
)
Index("batches_expiry", batches.c.expires_at)

chunks = Table(
    "batch_chunks",
    metadata,
    Column("batch_id", String, ForeignKey("batches.id", name="batch_chunks_batch", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("result", LargeBinary),
    Column("owner", String),
    Column("lease_ends", Double),
    Column("attempts", Integer, nullable=False),
    Column("version", String, nullable=False, server_default=""),
    PrimaryKeyConstraint("batch_id", "position", name="batch_chunks_key"),
)
"""A part of a batch that one worker scores at a time; open until it has a `result`. Only services of its reward
`version` take it, which stands here and not in `batches` so that an index leads to the next open one."""
Index(
    "batch_chunks_open",
    chunks.c.version,
    chunks.c.position,
    sqlite_where=chunks.c.result.is_(None),
    postgresql_where=chunks.c.result.is_(None),
)

batch_versions = Table(
    "batch_versions",
    metadata,
    Column("version", String, nullable=False),
    Column("attended_until", Double, nullable=False),
    PrimaryKeyConstraint("version", name="batch_versions_key"),
)
"""Reward versions of batches, and until when each is waited for: a service that has it moves the time on."""


def upsert(connection: Connection, table: Table) -> Any:
    """An INSERT that can say ON CONFLICT; SQLAlchemy has one for each dialect, and none for all."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name](table)


class SecondsNow(GenericFunction[float]):
    """The time of the database, seconds since 1970."""

    type = Double()
    inherit_cache = True


@compiles(SecondsNow, "sqlite")
def _sqlite_now(element: SecondsNow, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(SecondsNow, "postgresql")
def _postgresql_now(element: SecondsNow, compiler: Any, **options: Any) -> str:
    # Not now(): that is when the transaction began, which may have waited for a lock since.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
