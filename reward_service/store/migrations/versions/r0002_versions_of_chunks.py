"""The reward version of a chunk, and until when each version is waited for."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

from reward_service.store.schema import SecondsNow

revision = "0002"
down_revision = "0001"

_ATTENDED_SECONDS = 3600.0
_HEAD_BYTES = 256
"""Of a request; its reward version stands there."""
_VERSION = re.compile(rb'"reward_version":"([^"]*)"')
_OF_OLDER_REPLICAS = ""
"""What the default puts in, as long as replicas of the StepTool before still run and accept batches."""


def upgrade() -> None:
    """Name the version of every open chunk, and give the services that have it time to come up."""
    op.add_column("batch_chunks", sa.Column("version", sa.String, nullable=False, server_default=_OF_OLDER_REPLICAS))
    op.create_table(
        "batch_versions",
        sa.Column("version", sa.String, nullable=False),
        sa.Column("attended_until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("version", name="batch_versions_key"),
    )
    for version in {_OF_OLDER_REPLICAS, *_named()}:
        op.execute(sa.insert(_versions).values(version=version, attended_until=SecondsNow() + _ATTENDED_SECONDS))
    op.drop_index("batch_chunks_open", "batch_chunks")
    is_open = sa.text("result IS NULL")
    columns = ["version", "position"]
    op.create_index("batch_chunks_open", "batch_chunks", columns, sqlite_where=is_open, postgresql_where=is_open)


_chunks = sa.table(
    "batch_chunks",
    *(sa.column("batch_id"), sa.column("position"), sa.column("version")),
    *(sa.column("request", sa.LargeBinary), sa.column("result", sa.LargeBinary)),
)
_versions = sa.table("batch_versions", sa.column("version"), sa.column("attended_until"))


def _named() -> set[str]:
    """The versions of open chunks, once each stands in its row."""
    head = sa.func.substr(_chunks.c.request, 1, _HEAD_BYTES)
    rows = op.get_bind().execute(
        sa.select(_chunks.c.batch_id, _chunks.c.position, head).where(_chunks.c.result.is_(None))
    )
    named: set[str] = set()
    for batch_id, position, beginning in rows.all():
        found = _VERSION.search(beginning)
        if found is not None:
            named.add(version := found[1].decode())
            is_row = sa.and_(_chunks.c.batch_id == batch_id, _chunks.c.position == position)
            op.execute(sa.update(_chunks).where(is_row).values(version=version))
    return named
