"""OpenEnv's WebSocket over a real connection, in the messages that OpenEnv's own client sends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.tool_sandbox.served import keys, served
from tool_sandbox.client import LocalSandbox
from tool_sandbox.config import HttpConfig, PoolConfig
from tool_sandbox.http.app import build_app
from tool_sandbox.http.keys import ApiKeys, digest
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split

CONFIG = HttpConfig(max_body_bytes=64 * 1024)


@dataclass(frozen=True, slots=True)
class Service:
    address: str
    """Host and port."""
    key: str


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    known, key = keys()
    with served(build_app(CONFIG, LocalSandbox(PoolConfig(max_sessions=2, queue_seconds=0)), known), CONFIG) as url:
        yield Service(url.removeprefix("http://"), key)


@pytest.fixture
def socket(service: Service) -> Iterator[ClientConnection]:
    with connect(f"ws://tests:{service.key}@{service.address}/ws", proxy=None) as connection:
        yield connection


def ask(socket: ClientConnection, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    socket.send(json.dumps({"type": kind} if data is None else {"type": kind, "data": data}))
    return json.loads(socket.recv(20))


def test_an_episode_in_openenv_s_messages(socket: ClientConnection) -> None:
    task = LedgerToolset().sample_task(Split.TRAIN, "L0", 3)
    begun = ask(socket, "reset", {"seed": 3, "level": "L0"})
    assert (begun["type"], begun["data"]["reward"], begun["data"]["done"]) == ("observation", None, False)
    assert begun["data"]["observation"]["text"] == task.prompt
    called = ask(socket, "step", {"type": "call_tool", "tool_name": "teleport", "arguments": {}, "metadata": {}})
    assert called["data"]["observation"]["status"] == "unknown_tool"
    state = ask(socket, "state")
    assert (state["type"], state["data"]["step_count"], state["data"]["task_id"]) == ("state", 1, task.id)
    ended = ask(socket, "step", {"type": "answer", "answer": task.ground_truth.answer})
    assert (ended["data"]["reward"], ended["data"]["done"]) == (1.0, True)
    assert ask(socket, "reset", {})["data"]["done"] is False


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 50_000, "INVALID_JSON"),
        ('{"type": "dance"}', "UNKNOWN_TYPE"),
        ("[]", "UNKNOWN_TYPE"),
        ('{"type": "reset", "data": {"sede": 1}}', "VALIDATION_ERROR"),
        ('{"type": "step"}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"type": "answer", "answer": ""}}', "EXECUTION_ERROR"),
        ('{"type": "reset", "data": {"level": "L99"}}', "EXECUTION_ERROR"),
    ],
)
def test_what_is_wrong_with_a_message_is_an_answer_and_the_connection_stays(
    socket: ClientConnection, message: str, code: str
) -> None:
    socket.send(message)
    answer = json.loads(socket.recv(20))
    assert (answer["type"], answer["data"]["code"]) == ("error", code)
    assert ask(socket, "reset")["type"] == "observation"


def test_an_episode_ends_with_its_connection(service: Service) -> None:
    for _ in range(4):
        with connect(f"ws://tests:{service.key}@{service.address}/ws", proxy=None) as socket:
            # Two sessions is all that there are: the third connection would find none.
            assert ask(socket, "reset")["type"] == "observation"
            socket.send('{"type": "close"}')
            with pytest.raises(ConnectionClosed):
                socket.recv(20)


def test_a_full_pool_is_said_so(service: Service, socket: ClientConnection) -> None:
    headers = {"Authorization": f"Bearer {service.key}"}
    with httpx.Client(base_url=f"http://{service.address}", headers=headers, trust_env=False) as http:
        begun = [http.post("/reset").json()["observation"]["episode_id"] for _ in range(2)]
        assert ask(socket, "reset")["data"]["code"] == "CAPACITY_REACHED"
        for name in begun:
            http.post("/step", json={"action": {"type": "answer", "answer": ""}, "episode_id": name})
    assert ask(socket, "reset")["type"] == "observation"


def test_a_key_may_also_come_as_bearer_and_nobody_gets_in_without(service: Service) -> None:
    url = f"ws://{service.address}/ws"
    with connect(url, additional_headers={"Authorization": f"Bearer {service.key}"}, proxy=None) as socket:
        assert ask(socket, "state")["data"]["code"] == "EXECUTION_ERROR"
    for wrong in (url, f"ws://tests:wrong@{service.address}/ws", f"ws://{service.key}:@{service.address}/ws"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(wrong, proxy=None)


def test_a_web_page_is_not_let_in_even_with_a_key(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.key}", "Origin": "https://example.org"}
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{service.address}/ws", additional_headers=headers, proxy=None)


def test_a_message_over_the_limit_ends_the_connection(socket: ClientConnection) -> None:
    socket.send("x" * (CONFIG.max_body_bytes + 1))
    with pytest.raises(ConnectionClosed):
        socket.recv(20)


@contextmanager
def watched(tmp_path: Path, granted: str) -> Iterator[tuple[str, Path]]:
    """A service whose keys are in a file, with one that is granted something; yields its address and the file."""
    file = tmp_path / "keys"
    file.write_text(f"anna:{digest('hush')}{granted}")
    pool = LocalSandbox(PoolConfig(max_sessions=2, queue_seconds=0))
    with served(build_app(CONFIG, pool, ApiKeys({}, file)), CONFIG) as url:
        yield url.removeprefix("http://"), file


def test_a_key_for_something_else_opens_no_connection(tmp_path: Path) -> None:
    with watched(tmp_path, ":score+read") as (address, _), pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://anna:hush@{address}/ws", proxy=None)


def test_a_message_costs_a_request(tmp_path: Path) -> None:
    with watched(tmp_path, ":tools:3/min") as (address, _):
        url = f"ws://anna:hush@{address}/ws"
        with connect(url, proxy=None) as socket:
            kinds = [ask(socket, "state")["data"]["code"] for _ in range(3)]
        with pytest.raises(InvalidStatus, match="429") as caught:
            connect(url, proxy=None)
    assert kinds == ["EXECUTION_ERROR", "EXECUTION_ERROR", "CAPACITY_REACHED"]
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 20


def ask_until_closed(socket: ClientConnection) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ask(socket, "state")


def test_a_connection_ends_when_its_key_is_removed(tmp_path: Path) -> None:
    with watched(tmp_path, "") as (address, file), connect(f"ws://anna:hush@{address}/ws", proxy=None) as socket:
        assert ask(socket, "state")["type"] == "error"
        file.write_text(f"bert:{digest('other')}")
        with pytest.raises(ConnectionClosed) as caught:
            ask_until_closed(socket)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason[:15]) == (1008, "unknown API key")
