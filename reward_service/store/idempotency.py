"""Requests that may be sent twice: the header `Idempotency-Key` (IETF, draft-ietf-httpapi-idempotency-key-header).

Owns `Idempotency`. The first request with a key is answered and its answer kept; a repetition gets the same answer, one
that comes too early is told so, and another request under the same key is refused. Keys of two callers never meet.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, or_, select, update

from reward_service.store.database import Database
from reward_service.store.leases import given_back_on_failure, renewed
from reward_service.store.schema import SecondsNow, idempotency, upsert
from reward_service.store.timing import Timing


@dataclass(frozen=True, slots=True)
class Fresh:
    """The request is the first: answer it while it is `held`, then `finish`, or `abandon` it."""

    caller: str
    key: str
    fingerprint: str
    owner: str
    """Tells this try from a later one, should its lease end."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The request was answered before, with this."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class InFlight:
    """The same request is being answered now. HTTP says 409."""

    seconds_left: float
    """Until its lease ends, at the latest."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The key was used for another request. HTTP says 422."""


Beginning = Fresh | Replay | InFlight | Conflict


class Idempotency:
    """The keys that callers sent, and what they were answered."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database = database
        self._timing = timing

    async def begin(self, caller: str, key: str, fingerprint: str) -> Beginning:
        """What to do with a request; `fingerprint` is a hash of all that makes it another request.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        entry = Fresh(caller, key, fingerprint, uuid.uuid4().hex)
        return await self._database.write(lambda connection: _begin(connection, entry, self._timing))

    @asynccontextmanager
    async def held(self, entry: Fresh) -> AsyncIterator[None]:
        """Keep the request in flight while the body runs, which may be long; forget it where the body raises."""

        async def renew() -> None:
            lease = self._timing.request_lease_seconds
            await self._database.write(lambda connection: _renew(connection, entry, lease))

        every = self._timing.request_renewal_seconds
        async with given_back_on_failure(lambda: self.abandon(entry)), renewed(renew, every):
            yield

    async def finish(self, entry: Fresh, status: int, body: bytes) -> Replay:
        """Keep the answer; gives the one to send, which is another's if that was first after a lease had ended.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        answer = Replay(status, body)
        return await self._database.write(lambda connection: _finish(connection, entry, answer))

    async def abandon(self, entry: Fresh) -> None:
        """Forget the request, so that it may be tried again: its answer is not worth keeping.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        await self._database.write(lambda connection: _abandon(connection, entry))


def forget_expired(connection: Connection) -> None:
    """Remove entries whose time is over."""
    connection.execute(delete(idempotency).where(idempotency.c.expires_at <= SecondsNow()))


def _begin(connection: Connection, entry: Fresh, timing: Timing) -> Beginning:
    insert = upsert(connection, idempotency).values(
        caller=entry.caller,
        idempotency_key=entry.key,
        fingerprint=entry.fingerprint,
        owner=entry.owner,
        lease_ends=SecondsNow() + timing.request_lease_seconds,
        expires_at=SecondsNow() + timing.keep_seconds,
    )
    renewed = {name: insert.excluded[name] for name in ("fingerprint", "owner", "lease_ends", "expires_at")}
    lapsed = and_(_IN_FLIGHT, _ENTRY.lease_ends <= SecondsNow(), _ENTRY.fingerprint == insert.excluded.fingerprint)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[_ENTRY.caller, _ENTRY.idempotency_key],
            set_=renewed | {"status": None, "body": None},
            where=or_(_ENTRY.expires_at <= SecondsNow(), lapsed),
        )
    )
    return _beginning(connection.execute(select(idempotency, _SECONDS_LEFT).where(_named(entry))).one(), entry)


def _beginning(row: Row[Any], entry: Fresh) -> Beginning:
    if row.owner == entry.owner:
        return entry
    if row.fingerprint != entry.fingerprint:
        return Conflict()
    if row.status is not None:
        return Replay(row.status, row.body)
    return InFlight(max(0.0, row.seconds_left))


def _renew(connection: Connection, entry: Fresh, lease_seconds: float) -> None:
    own = and_(_named(entry), _ENTRY.owner == entry.owner, _IN_FLIGHT)
    connection.execute(update(idempotency).where(own).values(lease_ends=SecondsNow() + lease_seconds))


def _finish(connection: Connection, entry: Fresh, answer: Replay) -> Replay:
    same = and_(_named(entry), _ENTRY.fingerprint == entry.fingerprint)
    connection.execute(update(idempotency).where(same, _IN_FLIGHT).values(status=answer.status, body=answer.body))
    row = connection.execute(select(_ENTRY.status, _ENTRY.body).where(same)).one_or_none()
    # No row: the entry has expired, or a later try abandoned it. The answer is right all the same.
    return answer if row is None else Replay(row.status, row.body)


def _abandon(connection: Connection, entry: Fresh) -> None:
    connection.execute(delete(idempotency).where(_named(entry), _ENTRY.owner == entry.owner, _IN_FLIGHT))


_ENTRY = idempotency.c
_IN_FLIGHT = _ENTRY.status.is_(None)
_SECONDS_LEFT = (_ENTRY.lease_ends - SecondsNow()).label("seconds_left")


def _named(entry: Fresh) -> ColumnElement[bool]:
    return and_(_ENTRY.caller == entry.caller, _ENTRY.idempotency_key == entry.key)
