"""Opening a store: migrations, many at once, databases that cannot be used, and credentials that stay hidden."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, create_engine, text

from reward_service.store import errors, migrate
from reward_service.store.config import NoStore, PostgresStore, SqliteStore, StoreConfig
from reward_service.store.errors import ResultsLate, StoreMisconfigured, StoreTooNew, StoreUnavailable
from reward_service.store.opening import open_store
from reward_service.store.schema import metadata
from reward_service.store.timing import Timing
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import trajectory
from tests.reward_service.store.computing import SOON, Counting, key
from tests.reward_service.store.places import URL_VARIABLE, SqlitePlace

HASTY = Timing(lock_seconds=0.2)

OPENER = """
import asyncio, os, sys
from pydantic import TypeAdapter
from reward_service.store.config import StoreConfig
from reward_service.store.opening import open_store

async def main():
    async with await open_store(TypeAdapter(StoreConfig).validate_json(sys.argv[1])) as store:
        await store.check()

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""

FILLER = """
import asyncio, os, resource, sys
from pathlib import Path
from reward_service.store.config import SqliteStore
from reward_service.store.errors import StoreUnavailable
from reward_service.store.keys import Key
from reward_service.store.opening import open_store

async def compute(positions):
    return [b"x" * 2**20 for _ in positions]

async def main():
    path = Path(sys.argv[1])
    async with await open_store(SqliteStore(path=path)) as store:
        await store.check()
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, most))
        try:
            await store.once.results([Key("score", "v1", "a")], compute, 30.0)
        except StoreUnavailable as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        (value,) = await store.once.results([Key("score", "v1", "a")], compute, 30.0)
        print(len(value))

asyncio.run(main())
"""


def sqlalchemy_url(place) -> str:
    if isinstance(place, SqlitePlace):
        return f"sqlite:///{place.path}"
    return place.environment[URL_VARIABLE].replace("postgresql:", "postgresql+psycopg:")


@contextlib.contextmanager
def first_schema(place) -> Iterator[Connection]:
    """A connection to a database that the first release made."""
    if isinstance(place, SqlitePlace):
        place.path.parent.mkdir()
    engine = create_engine(sqlalchemy_url(place))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        yield connection
    engine.dispose()


async def test_a_store_that_is_opened_again_has_what_was_stored(replica):
    await (await replica()).once.results([key()], Counting([key()]), SOON)
    unwanted = Counting([key()])
    assert await (await replica()).once.results([key()], unwanted, SOON) == [b"a"]
    assert unwanted.calls == []


async def test_the_migrations_build_the_tables_that_the_queries_know(place, replica):
    await replica()
    engine = create_engine(sqlalchemy_url(place))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_processes_that_open_a_new_database_at_once_all_succeed(place):
    environment = os.environ | dict(place.environment)
    arguments = [sys.executable, "-W", "error", "-c", OPENER, place.config.model_dump_json()]
    openers = [
        subprocess.Popen(
            arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == b"ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write(b"\n")
        opener.stdin.flush()
    for opener in openers:
        _, complaint = opener.communicate(timeout=60)
        assert (opener.returncode, complaint) == (0, b"")


async def test_stores_that_one_process_opens_at_once_all_succeed(replica):
    for store in await asyncio.gather(*(replica() for _ in range(4))):
        await store.check()


async def test_a_database_of_a_newer_version_is_refused(place, replica):
    await (await replica()).aclose()
    place.query("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        StoreTooNew, match=r"revision '9999', the newest known here is '0002'; run the version of StepTool"
    ):
        await replica()
    assert place.query("SELECT version_num FROM alembic_version") == [("9999",)]


async def test_a_batch_of_the_first_schema_has_the_version_of_its_requests_afterwards(place, replica):
    with first_schema(place) as connection:
        connection.execute(
            text("INSERT INTO batches (id, caller, created_at, expires_at) VALUES ('b', 'alice', 0, 9e9)")
        )
        request = ScoreRequest.model_validate({"reward_version": "hash-1", "trajectories": [trajectory("t")]})
        row = {"request": request.model_dump_json().encode()}
        connection.execute(
            text("INSERT INTO batch_chunks (batch_id, position, request, attempts) VALUES ('b', 0, :request, 0)"), row
        )
    store, taken = await replica(), []

    async def score(chunk):
        taken.append(chunk.request)
        return b"done"

    assert await store.batches.attend("hash-2") == frozenset()
    assert not await store.batches.work("hash-2", score, SOON)
    assert await store.batches.work("hash-1", score, SOON)
    assert taken == [row["request"]]


async def test_a_locked_database_is_unavailable_and_then_available_again(place, replica):
    store = await replica(HASTY)
    await store.once.results([key("a")], Counting([key("a")]), SOON)
    with place.locked():
        with pytest.raises(StoreUnavailable, match=r"lock"):
            await store.idempotency.begin("alice", "k1", "f1")
        with pytest.raises(StoreUnavailable, match=r"lock"):
            await store.once.results([key("b")], Counting([key("b")]), SOON)
    assert await store.once.results([key("b")], Counting([key("b")]), SOON) == [b"b"]


async def test_what_is_stored_in_sqlite_can_be_read_while_another_writes(sqlite_place):
    async with await open_store(sqlite_place.config, timing=HASTY) as store:
        await store.once.results([key()], Counting([key()]), SOON)
        with sqlite_place.locked():
            assert await store.once.results([key()], Counting([key()]), SOON) == [b"a"]


def test_a_full_disk_is_unavailable_and_then_available_again(sqlite_place):
    arguments = [sys.executable, "-W", "error", "-c", FILLER, str(sqlite_place.path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    complaint, value_bytes = done.stdout.splitlines()
    assert complaint.startswith(f"store SQLite {sqlite_place.path}: OperationalError: ")
    assert "see that it runs, can be reached and has room" in complaint
    assert value_bytes == str(2**20)


async def test_a_file_that_is_no_database_is_unavailable(tmp_path):
    path = tmp_path / "rewards.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreUnavailable, match="file is not a database"):
        await open_store(SqliteStore(path=path))


async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot open the file"):
        await open_store(SqliteStore(path=tmp_path / "file" / "rewards.db"))


async def test_the_file_is_for_its_owner_only(sqlite_place):
    async with await open_store(sqlite_place.config):
        modes = {path.name: path.stat().st_mode & 0o777 for path in sqlite_place.path.parent.iterdir()}
    assert modes.keys() >= {"rewards.db", "rewards.db-wal"}
    assert set(modes.values()) == {0o600}


async def test_a_server_that_cut_all_connections_is_asked_again(postgres_place):
    async with await open_store(postgres_place.config, postgres_place.environment) as store:
        await store.once.results([key()], Counting([key()]), SOON)
        postgres_place.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'steptool-rewards'"
        )
        assert await store.once.results([key()], Counting([key()]), SOON) == [b"a"]


async def test_a_server_that_takes_no_connection_is_unavailable_and_then_available_again(postgres_place, postgres):
    async with await open_store(postgres_place.config, postgres_place.environment) as store:
        with postgres.connect() as connection:
            connection.execute(f"ALTER DATABASE {postgres_place.database} ALLOW_CONNECTIONS false".encode())
            others = f"FROM pg_stat_activity WHERE datname = '{postgres_place.database}'"
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}".encode())
            with pytest.raises(StoreUnavailable, match="not currently accepting connections"):
                await store.check()
            connection.execute(f"ALTER DATABASE {postgres_place.database} ALLOW_CONNECTIONS true".encode())
        await store.check()


async def test_a_store_that_keeps_nothing_has_no_jobs_and_is_always_there():
    async with await open_store(NoStore()) as store:
        await store.check()
        assert (store.idempotency, store.batches) == (None, None)


SECRET = "hunter2hunter2"
UNREACHABLE = f"postgresql://steptool:{SECRET}@127.0.0.1:1/rewards"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (None, StoreMisconfigured),
        ("", StoreMisconfigured),
        (f"user:{SECRET}", StoreMisconfigured),
        (f"postgresql://steptool:{SECRET}@localhost:notaport/rewards", StoreMisconfigured),
        (f"postgresql://steptool:word@{SECRET}@localhost/rewards", StoreMisconfigured),
        (f"mysql://steptool:{SECRET}@localhost/rewards", StoreMisconfigured),
        (UNREACHABLE, StoreUnavailable),
        (f"postgresql://steptool@127.0.0.1:1/rewards?password={SECRET}", StoreUnavailable),
        (f"postgres://steptool:{SECRET}@127.0.0.1:1/rewards?sslmode={SECRET}", StoreUnavailable),
        (f"postgres://steptool:{SECRET}@127.0.0.1:1/rewards?nonsense=1", StoreMisconfigured),
    ],
)
async def test_a_url_that_leads_nowhere_is_refused_without_being_shown(url, error):
    environment = {} if url is None else {URL_VARIABLE: url}
    with pytest.raises(error, match=URL_VARIABLE) as raised:
        await open_store(PostgresStore(url_variable=URL_VARIABLE), environment, HASTY)
    assert SECRET not in "".join(traceback.format_exception(raised.value)) + repr(raised.value)


async def test_a_wrong_password_is_refused_without_being_shown(postgres_place, postgres):
    wrong = postgres_place.environment[URL_VARIABLE].replace(postgres.url("x").split(":")[2].split("@")[0], SECRET)
    with pytest.raises(StoreUnavailable, match="password authentication failed") as raised:
        await open_store(postgres_place.config, {URL_VARIABLE: wrong})
    assert SECRET not in "".join(traceback.format_exception(raised.value)) + repr(raised.value)


async def test_an_error_of_the_database_shows_neither_the_password_nor_what_was_to_be_stored(place, replica, caplog):
    store, stored = await replica(HASTY), f"key-of-{SECRET}"
    with place.locked(), pytest.raises(StoreUnavailable) as raised:
        await store.idempotency.begin("alice", stored, "f1")
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + caplog.text
    assert stored not in shown
    assert all(url not in shown for url in place.environment.values())


def test_a_url_in_the_place_of_a_variables_name_is_refused_without_being_shown():
    with pytest.raises(ValidationError, match="should match pattern") as raised:
        PostgresStore(url_variable=UNREACHABLE)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({"kind": "none"}, NoStore()),
        ({"kind": "sqlite", "path": "runs/rewards.db"}, SqliteStore.model_validate({"path": "runs/rewards.db"})),
        ({"kind": "postgresql", "url_variable": "REWARDS_URL"}, PostgresStore(url_variable="REWARDS_URL")),
    ],
)
def test_a_store_is_chosen_by_its_kind(settings, config):
    assert TypeAdapter(StoreConfig).validate_python(settings) == config


@pytest.mark.parametrize(
    "error",
    [
        StoreTooNew("SQLite a.db", "9999", "0001"),
        StoreUnavailable("SQLite a.db", "full"),
        ResultsLate(3, 1.5),
        errors.BatchNotFound("b"),
    ],
)
def test_every_error_survives_the_way_between_processes(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_others_need_of_the_store_loads_no_database_library():
    modules = ["config", "errors", "keys", "once", "timing"]
    program = f"""
import sys
{"; ".join(f"import reward_service.store.{module}" for module in modules)}
print([name for name in ("sqlalchemy", "alembic", "psycopg", "fastapi", "ray", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
