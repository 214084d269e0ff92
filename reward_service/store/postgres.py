"""The store in a PostgreSQL database. Owns the rule that no part of its URL is ever shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from reward_service.store.config import PostgresStore
from reward_service.store.database import READERS, Backend, Database
from reward_service.store.errors import StoreMisconfigured
from reward_service.store.timing import Timing

_WRITERS = 4
_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_HOST = re.compile(r"[A-Za-z0-9._:-]*")
_EXPECTED = "expected postgresql://user:password@host:port/database, with the password percent-encoded"


def open_postgres(config: PostgresStore, environment: Mapping[str, str], timing: Timing) -> Database:
    """A database that connects when it is first used.

    Raises:
        StoreMisconfigured: the variable is not set, or holds no PostgreSQL URL, or the driver is not installed.
    """
    url = _url(config.url_variable, environment)
    try:
        engine = _engine(url, timing)
    except ModuleNotFoundError as error:
        raise StoreMisconfigured(f"store: PostgreSQL needs {error.name}; install steptool[postgres]") from error
    _refuse_unknown_options(url, config.url_variable)
    name = f"PostgreSQL of {config.url_variable}"
    reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    return Database(Backend(name, engine, reading, _WRITERS, _secrets(url)), timing)


def _url(variable: str, environment: Mapping[str, str]) -> URL:
    text = environment.get(variable, "")
    if not text:
        raise StoreMisconfigured(f"store: the environment variable {variable} is not set; {_EXPECTED}")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Without its cause, which quotes the URL.
        raise StoreMisconfigured(f"store: {variable} holds no URL; {_EXPECTED}") from None
    # A password with a bare '@' is cut in two, and its end would be shown as the host that cannot be found.
    if url.drivername not in _SCHEMES or not _HOST.fullmatch(url.host or ""):
        raise StoreMisconfigured(f"store: {variable} holds no PostgreSQL URL; {_EXPECTED}")
    return url.set(drivername="postgresql+psycopg")


def _refuse_unknown_options(url: URL, variable: str) -> None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    try:
        make_conninfo("", **dict.fromkeys(url.query, ""))
    except ProgrammingError:
        # Without its cause: a password with a bare '?' continues as an option.
        unknown = f"store: {variable} has an option that PostgreSQL does not know"
        raise StoreMisconfigured(f"{unknown}; {_EXPECTED}") from None


def _secrets(url: URL) -> tuple[str, ...]:
    passwords = [url.password, url.query.get("password")]
    plain = [password for password in passwords if isinstance(password, str) and password]
    return tuple(form for password in plain for form in (password, quote(password, safe="")))


def _engine(url: URL, timing: Timing) -> Engine:
    lock_ms, operation_ms = round(timing.lock_seconds * 1000), round(timing.operation_seconds * 1000)
    return create_engine(
        url,
        connect_args={
            "connect_timeout": max(2, round(timing.lock_seconds)),
            "options": f"-c lock_timeout={lock_ms} -c statement_timeout={operation_ms}",
            "application_name": "steptool-rewards",
            # A server that vanished without a word is noticed within half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": operation_ms,
        },
        pool_size=READERS + _WRITERS,
        max_overflow=0,
        pool_timeout=timing.lock_seconds,
        # A server that was started again has cut the connections of the pool.
        pool_pre_ping=True,
        hide_parameters=True,
    )
