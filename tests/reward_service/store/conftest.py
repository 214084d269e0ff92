"""The store on both databases: a SQLite file, and a real PostgreSQL server that is started for the test run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from reward_service.store.config import NoStore
from reward_service.store.once import Once
from reward_service.store.opening import Store, open_store
from reward_service.store.timing import Timing
from tests.reward_service.store.places import Place, PostgresPlace, SqlitePlace
from tests.reward_service.store.postgres_server import PostgresServer, postgres_server

Replica = Callable[..., Awaitable[Store]]
"""Opens one more store on the same database, with a `Timing` or the default one. The test's end closes it."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def sqlite_place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "store" / "rewards.db")


@pytest.fixture
def postgres_place(postgres: PostgresServer) -> PostgresPlace:
    return PostgresPlace(postgres, postgres.create_database())


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue("sqlite_place" if request.param == "sqlite" else "postgres_place")


@pytest.fixture
async def replica(place: Place) -> AsyncIterator[Replica]:
    async with contextlib.AsyncExitStack() as stack:

        async def opened(timing: Timing = Timing()) -> Store:  # noqa: B008
            return await stack.enter_async_context(await open_store(place.config, place.environment, timing))

        yield opened


@pytest.fixture
async def store(replica: Replica) -> Store:
    return await replica()


@pytest.fixture(params=["none", "sqlite", "postgresql"])
async def any_once(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Once]:
    """`Once` of every variant, for what holds without a database too."""
    config, environment = NoStore(), {}
    if request.param != "none":
        place = request.getfixturevalue("sqlite_place" if request.param == "sqlite" else "postgres_place")
        config, environment = place.config, place.environment
    async with await open_store(config, environment) as store:
        yield store.once
