"""The queries behind `BatchStore`. Each takes a connection inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select, update

from reward_service.store.schema import SecondsNow, batch_versions, batches, chunks, upsert


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a batch, in the hands of one worker."""

    batch_id: str
    position: int
    request: bytes
    attempt: int
    """1 at the first try. A chunk that ends its worker each time is seen here; answer it with an error in the end."""
    owner: str
    """The worker's claim."""


class Counted(NamedTuple):
    """A batch and how many of its chunks are finished."""

    created_at: float
    expires_at: float
    cancelled: bool
    chunks: int
    finished: int


_OPEN = chunks.c.result.is_(None)
_LIVE = batches.c.expires_at > SecondsNow()
_WORKABLE = and_(_OPEN, _LIVE, batches.c.cancelled_at.is_(None))
_FREE = or_(chunks.c.owner.is_(None), chunks.c.lease_ends <= SecondsNow())
_OF_BATCH = chunks.c.batch_id == batches.c.id


def create(
    connection: Connection, batch_id: str, caller: str, version: str, requests: Sequence[bytes], keep_seconds: float
) -> None:
    """Write a batch of a reward version down, with a chunk for each of `requests`."""
    times = {"created_at": SecondsNow(), "expires_at": SecondsNow() + keep_seconds}
    connection.execute(insert(batches).values(id=batch_id, caller=caller, **times))
    rows = [
        {"batch_id": batch_id, "position": position, "request": request, "attempts": 0, "version": version}
        for position, request in enumerate(requests)
    ]
    connection.execute(insert(chunks), rows)


def claim(connection: Connection, owner: str, version: str, lease_seconds: float) -> Chunk | None:
    """The next open chunk of a reward version, the owner's from now on; None where none is open."""
    row = connection.execute(
        select(chunks.c.batch_id, chunks.c.position, chunks.c.request, chunks.c.attempts)
        .join(batches, _OF_BATCH)
        .where(chunks.c.version == version, _WORKABLE, _FREE)
        .order_by(chunks.c.position, batches.c.created_at, batches.c.id)
        .limit(1)
        # PostgreSQL: two workers at once take two chunks. SQLite has one writer anyway.
        .with_for_update(of=chunks, skip_locked=True)
    ).one_or_none()
    # The request is gone where the batch was cancelled in the same moment.
    if row is None or not row.request:
        return None
    chunk = Chunk(row.batch_id, row.position, row.request, row.attempts + 1, owner)
    lease = {"owner": owner, "lease_ends": SecondsNow() + lease_seconds, "attempts": chunk.attempt}
    connection.execute(update(chunks).where(_is(chunk)).values(**lease))
    return chunk


def renew(connection: Connection, chunk: Chunk, lease_seconds: float) -> None:
    """Let the claim last for another lease; one that was lost stays lost."""
    connection.execute(update(chunks).where(_held(chunk)).values(lease_ends=SecondsNow() + lease_seconds))


def save(connection: Connection, chunk: Chunk, result: bytes) -> None:
    """Keep a result, and nothing of the request; the first one stays, whoever wrote it."""
    done = {"result": result, "request": b"", "owner": None, "lease_ends": None}
    connection.execute(update(chunks).where(_is(chunk), _OPEN).values(**done))


def release(connection: Connection, chunk: Chunk, tries: int) -> None:
    """Give the claim back; the chunk was tried so often."""
    connection.execute(update(chunks).where(_held(chunk)).values(owner=None, lease_ends=None, attempts=tries))


def rest(connection: Connection, chunk: Chunk, seconds: float) -> None:
    """Let nobody have the chunk for so long, and anybody after that."""
    connection.execute(update(chunks).where(_held(chunk)).values(lease_ends=SecondsNow() + seconds))


def attend(connection: Connection, version: str, seconds: float) -> None:
    """Let others wait so long for a service that has `version`."""
    until = {"attended_until": SecondsNow() + seconds}
    new = upsert(connection, batch_versions).values(version=version, **until)
    connection.execute(new.on_conflict_do_update(index_elements=[batch_versions.c.version], set_=until))


def unattended(connection: Connection) -> frozenset[str]:
    """The versions of open chunks that nobody is waited for to score."""
    attended = select(batch_versions.c.version).where(batch_versions.c.attended_until > SecondsNow())
    found = select(chunks.c.version).distinct().where(_OPEN, chunks.c.version.not_in(attended))
    return frozenset(connection.scalars(found))


def progress(connection: Connection, caller: str, batch_id: str) -> Counted | None:
    """The caller's batch; None where there is none."""
    row = connection.execute(
        select(
            batches.c.created_at,
            batches.c.expires_at,
            batches.c.cancelled_at.is_not(None),
            func.count(),
            func.count(chunks.c.result),
        )
        .join(chunks, _OF_BATCH)
        .where(_of(caller, batch_id))
        .group_by(batches.c.id)
    ).one_or_none()
    return None if row is None else Counted(*row)


def results(connection: Connection, caller: str, batch_id: str, start: int, count: int) -> Sequence[bytes | None]:
    """The results of so many chunks, in order, None where one is open; empty where there is no such chunk."""
    wanted = and_(chunks.c.position >= start, chunks.c.position < start + count)
    return connection.scalars(
        select(chunks.c.result)
        .join(batches, _OF_BATCH)
        .where(_of(caller, batch_id), wanted)
        .order_by(chunks.c.position)
    ).all()


def cancel(connection: Connection, caller: str, batch_id: str) -> None:
    """Close the caller's batch to workers, unless all of it is finished or it is closed already; keep no request."""
    has_work = exists().where(_OF_BATCH, _OPEN)
    connection.execute(
        update(batches)
        .where(_of(caller, batch_id), batches.c.cancelled_at.is_(None), has_work)
        .values(cancelled_at=SecondsNow())
    )
    is_cancelled = exists().where(_of(caller, batch_id), batches.c.cancelled_at.is_not(None))
    connection.execute(update(chunks).where(chunks.c.batch_id == batch_id, _OPEN, is_cancelled).values(request=b""))


def count_open(connection: Connection, caller: str) -> int:
    """How many of the caller's batches have work left."""
    has_work = exists().where(_OF_BATCH, _WORKABLE)
    return connection.execute(
        select(func.count()).select_from(batches).where(batches.c.caller == caller, has_work)
    ).scalar_one()


def forget_expired(connection: Connection) -> None:
    """Remove batches whose time is over, with their chunks, and versions that nobody is waited for to score."""
    connection.execute(delete(batches).where(batches.c.expires_at <= SecondsNow()))
    connection.execute(delete(batch_versions).where(batch_versions.c.attended_until <= SecondsNow()))


def _of(caller: str, batch_id: str) -> ColumnElement[bool]:
    return and_(batches.c.id == batch_id, batches.c.caller == caller, _LIVE)


def _is(chunk: Chunk) -> ColumnElement[bool]:
    return and_(chunks.c.batch_id == chunk.batch_id, chunks.c.position == chunk.position)


def _held(chunk: Chunk) -> ColumnElement[bool]:
    return and_(_is(chunk), _OPEN, chunks.c.owner == chunk.owner)
