"""A PostgreSQL server of this test run only: in a temporary directory, on a Unix socket, gone with the run."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

USER = "steptool"
START_SECONDS = 60.0
_POLL_SECONDS = 0.05
# Nothing of a test run has to survive a power cut.
_SETTINGS = ("listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server."""

    directory: Path
    """Of its socket."""
    password: str

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(self.password, safe='')}@/{database}?host={self.directory}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection that commits each statement."""
        return psycopg.connect(
            host=str(self.directory), user=USER, password=self.password, dbname=database, autocommit=True
        )

    def create_database(self) -> str:
        """The name of a new, empty one."""
        name = f"store_{secrets.token_hex(8)}"
        with contextlib.closing(self.connect()) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server, and stop it at the end."""
    binaries = _binaries()
    with tempfile.TemporaryDirectory(prefix="steptool-pg-") as name:
        # Characters that must be encoded in a URL, so that a mistake there shows.
        server = PostgresServer(Path(name), f"p@ss/:%{secrets.token_hex(8)}")
        unprivileged = _unprivileged(server.directory)
        _initialise(binaries, server, unprivileged)
        with (server.directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [*unprivileged, "--pdeathsig", "INT", binaries / "postgres", *_arguments(server.directory)],
                cwd=server.directory,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            _await_start(server, process)
            yield server
        finally:
            # At once: another way to stop would first write down what is deleted next.
            process.send_signal(signal.SIGQUIT)
            process.wait(START_SECONDS)


def _binaries() -> Path:
    """Where Debian puts the newest server, else where the path leads."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.fail("the tests of the store need a PostgreSQL server; install it: apt-get install postgresql")
    return found[-1].parent if found else Path(on_path or "").resolve().parent


def _unprivileged(directory: Path) -> Sequence[str]:
    """How to run a program that refuses to run as root; `directory` is given to whom it runs as."""
    if os.geteuid() != 0:
        return ["setpriv"]
    user = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
    os.chown(directory, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _initialise(binaries: Path, server: PostgresServer, unprivileged: Sequence[str]) -> None:
    # A pipe would belong to us, and who may not be root could not open it.
    password = server.directory / "password"
    password.write_text(server.password + "\n")
    if unprivileged != ["setpriv"]:
        shutil.chown(password, server.directory.owner())
    made = subprocess.run(
        [
            *unprivileged,
            binaries / "initdb",
            f"--pgdata={server.directory / 'data'}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ],
        cwd=server.directory,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert made.returncode == 0, made.stderr


def _arguments(directory: Path) -> Iterator[str]:
    yield from ("-D", str(directory / "data"), "-k", str(directory))
    for setting in _SETTINGS:
        yield from ("-c", setting)


def _await_start(server: PostgresServer, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return server.connect().close()
        except psycopg.OperationalError:
            log = (server.directory / "log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
        time.sleep(_POLL_SECONDS)
