"""The load of the benchmark, against small servers on loopback, and the numbers that are made of what came back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cluster.bench_rewards import example, own_work, ratios
from cluster.http_load import LOST, Answers, Target, closed_loop, open_loop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BODY = b'{"a": 1}'
Heard = list[tuple[int, bytes]]
"""The number of the connection, and what came over it."""


@asynccontextmanager
async def answering(*replies: bytes) -> AsyncIterator[tuple[Target, Heard]]:
    """A server that gives these answers in turn, an empty one by hanging up; and what it heard."""
    heard: Heard = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        mine = connections
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(len(BODY))
                reply = replies[len(heard) % len(replies)]
                heard.append((mine, body))
                writer.write(reply)
                if not reply or b"close" in reply:
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Target.post(f"http://127.0.0.1:{port}/v1/score", BODY, {"Authorization": "Bearer hush"}), heard


Load = Callable[[Target], Awaitable[Answers]]


@pytest.mark.parametrize(
    "load",
    [lambda target: closed_loop(target, 2, 0.1), lambda target: open_loop(target, 100, 0.1, 2)],
    ids=["closed", "open"],
)
async def test_every_answer_is_counted_by_its_status_and_connections_are_kept(load: Load):
    async with answering(OK, CHUNKED, BUSY) as (target, heard):
        answers = await load(target)
    assert answers.statuses.total() == len(heard) > 2
    assert set(answers.statuses) == {200, 429}
    assert answers.retry_after == answers.statuses[429]
    assert {connection for connection, _ in heard} <= {1, 2}
    assert {body for _, body in heard} == {BODY}


async def test_a_connection_that_the_service_closes_is_opened_again_and_one_without_an_answer_is_lost():
    async with answering(LAST, b"", OK) as (target, heard):
        answers = await closed_loop(target, 1, 0.1)
    assert [connection for connection, _ in heard[:4]] == [1, 2, 3, 3]
    lost = sum(place % 3 == 1 for place in range(len(heard)))
    assert (answers.statuses[LOST], answers.statuses[200]) == (lost, len(heard) - lost)


def test_whatever_is_neither_an_answer_nor_told_to_come_back_is_lost_or_failed():
    answers = Answers()
    for status in (200, 200, 429, 500, 503, 404, LOST):
        answers.add(status, 0.01, retry_after=False)
    assert (answers.lost_or_failed, answers.server_errors) == (4, 2)


def test_the_ratio_of_throughputs_is_one_number_and_its_spread_another_key():
    # 80/100, 60/100 and 70/100.
    assert ratios([80, 60, 70], [100, 100, 100]) == {
        "throughput_ratio": 0.7,
        "throughput_ratio_spread": {"min": 0.6, "max": 0.8},
    }


async def test_the_shares_of_our_own_work_add_up_to_one():
    found = await own_work(example(), repeats=3)
    assert set(found) == {"own_work_ms", "share_of_own_work"}
    assert list(found["share_of_own_work"]) == list(found["own_work_ms"]) == ["validation", "scoring", "store"]
    assert sum(found["share_of_own_work"].values()) == pytest.approx(1.0)
    assert found["own_work_ms"]["validation"] > 0
