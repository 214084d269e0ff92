"""Results, idempotency entries, batches and their chunks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Build the first tables."""
    _results()
    _idempotency()
    _batches()
    _chunks()


def _results() -> None:
    op.create_table(
        "results",
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("owner", sa.String),
        sa.Column("lease_ends", sa.Double),
        sa.PrimaryKeyConstraint("kind", "version", "digest", "ordinal", name="results_key"),
    )
    _index_where("results_claimed", "results", "lease_ends", "value IS NULL")


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.String, nullable=False),
        sa.Column("idempotency_key", sa.String, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("lease_ends", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("caller", "idempotency_key", name="idempotency_key"),
    )
    op.create_index("idempotency_expiry", "idempotency", ["expires_at"])


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("caller", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("cancelled_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="batches_key"),
    )
    op.create_index("batches_expiry", "batches", ["expires_at"])


def _chunks() -> None:
    batch = sa.ForeignKey("batches.id", name="batch_chunks_batch", ondelete="CASCADE")
    op.create_table(
        "batch_chunks",
        sa.Column("batch_id", sa.String, batch, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("result", sa.LargeBinary),
        sa.Column("owner", sa.String),
        sa.Column("lease_ends", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "position", name="batch_chunks_key"),
    )
    _index_where("batch_chunks_open", "batch_chunks", "position", "result IS NULL")


def _index_where(name: str, table: str, column: str, condition: str) -> None:
    op.create_index(name, table, [column], sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))
