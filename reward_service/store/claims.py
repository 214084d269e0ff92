"""The queries behind `Once`: look up, claim, renew, keep, release. Each takes a connection inside a transaction.

Every statement that locks several rows takes them in the order of their keys, so that no two wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Float,
    Select,
    and_,
    bindparam,
    delete,
    or_,
    select,
    update,
)

from reward_service.store.keys import Key
from reward_service.store.schema import SecondsNow, results, upsert

_KEYS_PER_QUERY = 5000
"""Far below what a statement may carry: 32,766 values in SQLite, 65,535 in PostgreSQL."""

_KEY_COLUMNS = (results.c.kind, results.c.version, results.c.digest, results.c.ordinal)
_IS_KEY = and_(*(column == bindparam(f"key_{column.name}") for column in _KEY_COLUMNS))
_LEASE_END = SecondsNow() + bindparam("lease_seconds", type_=Float)
_OPEN = results.c.value.is_(None)


@dataclass(frozen=True, slots=True)
class Found:
    """What the database has for some keys. Keys in neither are being computed elsewhere."""

    stored: dict[Key, bytes] = field(default_factory=dict)
    free: dict[Key, str | None] = field(default_factory=dict)
    """May be claimed: the owner whose lease has ended, or None where there never was one."""


def look_up(connection: Connection, keys: Sequence[Key]) -> Found:
    """What there is for `keys`."""
    found = Found(free=dict.fromkeys(keys))
    asked = set(keys)
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        for row in connection.execute(_select(keys[start : start + _KEYS_PER_QUERY])):
            *fields, value, owner, lapsed = tuple(row)
            key = Key(*fields)
            if key not in asked:
                continue
            if lapsed and value is None:
                found.free[key] = owner
                continue
            found.free.pop(key, None)
            if value is not None:
                found.stored[key] = value
    return found


def claim(connection: Connection, owner: str, free: Mapping[Key, str | None], lease_seconds: float) -> set[Key]:
    """Those of `free` that are the owner's from now on; the others were faster."""
    lease = {"owner": owner, "lease_seconds": lease_seconds}
    absent = [_columns(key) | lease for key in sorted(free) if free[key] is None]
    lapsed = [_named(key) | lease | {"before": free[key]} for key in sorted(free) if free[key] is not None]
    insert = upsert(connection, results).values(lease_ends=_LEASE_END).on_conflict_do_nothing()
    won = _count(connection, insert, absent) + _count(connection, _TAKE_OVER, lapsed)
    return set(free) if won == len(free) else _owned(connection, owner, list(free))


def renew(connection: Connection, owner: str, keys: Iterable[Key], lease_seconds: float) -> None:
    """Let the owner's claims on `keys` last for another lease; those that it lost stay lost."""
    lease = {"before": owner, "lease_seconds": lease_seconds}
    _count(connection, _RENEW, [_named(key) | lease for key in sorted(keys)])


def keep(connection: Connection, values: Mapping[Key, bytes]) -> Mapping[Key, bytes]:
    """Store `values`, and give what is stored: the first value of a key stays, whoever wrote it."""
    rows = [_columns(key) | {"value": values[key]} for key in sorted(values)]
    insert = upsert(connection, results)
    kept = _count(
        connection,
        insert.on_conflict_do_update(
            index_elements=_KEY_COLUMNS,
            set_={"value": insert.excluded.value, "owner": None, "lease_ends": None},
            where=_OPEN,
        ),
        rows,
    )
    return values if kept == len(values) else look_up(connection, list(values)).stored


def release(connection: Connection, owner: str, keys: Iterable[Key]) -> None:
    """Give the owner's claims on `keys` back."""
    _count(connection, _RELEASE, [_named(key) | {"before": owner} for key in sorted(keys)])


def forget_lapsed(connection: Connection) -> None:
    """Remove claims whose lease has ended, and which nobody took over."""
    connection.execute(delete(results).where(_OPEN, results.c.lease_ends <= SecondsNow()))


_HELD = and_(_IS_KEY, results.c.owner == bindparam("before"), _OPEN)
_TAKE_OVER = (
    update(results)
    .where(_HELD, results.c.lease_ends <= SecondsNow())
    .values(owner=bindparam("owner"), lease_ends=_LEASE_END)
)
_RENEW = update(results).where(_HELD).values(lease_ends=_LEASE_END)
_RELEASE = delete(results).where(_HELD)


def _select(keys: Sequence[Key]) -> Select[*tuple[Any, ...]]:
    """One query by the primary key's first three columns; it also finds ordinals that nobody asked for."""
    lapsed = results.c.lease_ends <= SecondsNow()
    return select(*_KEY_COLUMNS, results.c.value, results.c.owner, lapsed).where(or_(*_digests(keys)))


def _digests(keys: Sequence[Key]) -> Iterable[ColumnElement[bool]]:
    for (kind, version), group in groupby(sorted(keys), lambda key: (key.kind, key.version)):
        wanted = results.c.digest.in_({key.digest for key in group})
        yield and_(results.c.kind == kind, results.c.version == version, wanted)


def _owned(connection: Connection, owner: str, keys: Sequence[Key]) -> set[Key]:
    rows = connection.execute(select(*_KEY_COLUMNS).where(results.c.owner == owner, or_(*_digests(keys))))
    return {Key(*row) for row in rows} & set(keys)


def _count(connection: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many rows the statement changed, over all of `rows`."""
    if not rows:
        return 0
    return connection.execute(statement, rows, execution_options={"preserve_rowcount": True}).rowcount


def _columns(key: Key) -> dict[str, Any]:
    return key._asdict()


def _named(key: Key) -> dict[str, Any]:
    return {f"key_{name}": value for name, value in key._asdict().items()}
