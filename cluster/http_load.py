"""Load on an HTTP service from one process: closed loops that wait for their answers, and open ones that do not.

Owns a client that does as little as possible, so that the measured service is the bottleneck and not the measuring: the
request is made once as bytes, a connection is kept, and of an answer the status and the length are read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ANSWER_SECONDS = 60.0
"""Deadline of one answer; what has none by then is lost."""
LOST = 0
"""Counted where a status would stand: no answer came."""


@dataclass(frozen=True, slots=True)
class Target:
    """One request, ready to be sent any number of times."""

    host: str
    port: int
    raw: bytes

    @classmethod
    def post(cls, url: str, body: bytes, headers: Mapping[str, str]) -> Target:
        """A POST of JSON."""
        parts = urlsplit(url)
        lines = [
            f"POST {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        head = "\r\n".join(lines) + "\r\n\r\n"
        return cls(parts.hostname or "", parts.port or 80, head.encode() + body)


@dataclass(slots=True)
class Answers:
    """What came back. Mutable while a load runs."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    seconds: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """Of every answer, by status."""
    retry_after: int = 0
    """Answers of 429 that said when to come back."""

    def add(self, status: int, seconds: float, retry_after: bool) -> None:
        """Count one answer."""
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(seconds)
        self.retry_after += status == 429 and retry_after

    def quantile_ms(self, share: float, status: int = 200) -> float | None:
        """Milliseconds within which this share of the answers came; None where there was none."""
        ordered = sorted(self.seconds.get(status, ()))
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)

    @property
    def lost_or_failed(self) -> int:
        """All that was neither answered nor told to come back."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 429))


async def closed_loop(target: Target, connections: int, seconds: float) -> Answers:
    """Each connection sends its next request when the last one is answered."""
    answers, end = Answers(), time.perf_counter() + seconds

    async def caller() -> None:
        connection = _Connection(target)
        while time.perf_counter() < end:
            await connection.exchange(answers)
        connection.close()

    await asyncio.gather(*(caller() for _ in range(connections)))
    return answers


async def open_loop(target: Target, per_second: float, seconds: float, connections: int) -> Answers:
    """Requests leave at a fixed rate, whether or not earlier ones were answered; `connections` bounds those in flight.

    A request that finds no free connection waits for one, and its wait counts.
    """
    answers = Answers()
    idle: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
    for _ in range(connections):
        idle.put_nowait(_Connection(target))

    async def one() -> None:
        began = time.perf_counter()
        connection = await idle.get()
        await connection.exchange(answers, began)
        idle.put_nowait(connection)

    began, sent = time.perf_counter(), 0
    async with asyncio.TaskGroup() as tasks:
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * per_second:
                tasks.create_task(one())
                sent += 1
            await asyncio.sleep(0.001)
    while not idle.empty():
        idle.get_nowait().close()
    return answers


class _Connection:
    """One connection that is opened when needed, and again when the service closed it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, answers: Answers, began: float | None = None) -> None:
        """Send the request and count its answer."""
        began = time.perf_counter() if began is None else began
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, retry_after = await self._send()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            status, retry_after = LOST, False
        answers.add(status, time.perf_counter() - began, retry_after)

    async def _send(self) -> tuple[int, bool]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._target.host, self._target.port)
        reader, writer = self._streams
        writer.write(self._target.raw)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await _read_body(reader, fields)
        if fields.get(b"connection") == b"close":
            self.close()
        return int(head.split(b" ", 2)[1]), b"retry-after" in fields

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_body(reader: asyncio.StreamReader, fields: Mapping[bytes, bytes]) -> None:
    if fields.get(b"transfer-encoding") != b"chunked":
        await reader.readexactly(int(fields.get(b"content-length", b"0")))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()
