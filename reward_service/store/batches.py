"""Jobs that outlive their request and the process that took them. Owns `BatchStore`.

A batch is a list of chunks. Any worker of any replica takes the next open chunk of its reward version under a lease, so
a job goes on by itself after a restart, and long jobs take turns. A version is attended as long as a service that has
it says so; what is left of one that is not may be answered by any other. A batch is known to its caller only, and is
gone after its time.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from reward_service.store import batch_queries as queries
from reward_service.store.batch_queries import Chunk
from reward_service.store.database import Database
from reward_service.store.errors import BatchNotFound, TooManyBatches
from reward_service.store.leases import given_back_on_failure, renewed
from reward_service.store.once import within
from reward_service.store.timing import Timing

_CHUNKS_READ_AT_ONCE = 4
"""Results of long trajectories take megabytes each."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is."""

    batch_id: str
    state: Literal["running", "done", "cancelled"]
    chunks: int
    finished: int
    created_at: float
    """Seconds since 1970."""
    expires_at: float
    """Seconds since 1970; not found from then on."""


@dataclass(frozen=True, slots=True)
class Later:
    """What a worker has instead of a result: the chunk is worth another try after a while."""

    seconds: float


Score = Callable[[Chunk], Awaitable[bytes | Later]]


class BatchStore:
    """The batches of all callers."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database = database
        self._timing = timing

    async def create(self, caller: str, version: str, chunks: Sequence[bytes]) -> str:
        """Accept a job to be scored by one reward version; its id, which nobody can guess. Each chunk is one request,
        scored as a whole.

        Raises:
            ValueError: there are no chunks.
            StoreUnavailable: the database cannot be used now.
        """
        if not chunks:
            raise ValueError("batch: 0 chunks; expected at least 1")
        batch_id, timing = uuid.uuid4().hex, self._timing

        def created(connection: Connection) -> None:
            queries.create(connection, batch_id, caller, version, chunks, timing.keep_seconds)
            queries.attend(connection, version, timing.attended_seconds)

        await self._database.write(created)
        return batch_id

    async def attend(self, version: str) -> frozenset[str]:
        """Say that a service has `version`; the versions of open chunks that none has said so of for long.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """

        def attended(connection: Connection) -> frozenset[str]:
            queries.attend(connection, version, self._timing.attended_seconds)
            return queries.unattended(connection)

        return await self._database.write(attended)

    async def expect_room(self, caller: str, most: int) -> None:
        """Whether the caller may have another open job. Those that begin at the same moment do not see each other.

        Raises:
            TooManyBatches: it has `most` already.
            StoreUnavailable: the database cannot be used now.
        """
        found = await self._database.read(lambda connection: queries.count_open(connection, caller))
        if found >= most:
            raise TooManyBatches(found, most)

    async def work(self, version: str, score: Score, deadline_seconds: float) -> bool:
        """Score the next open chunk of `version` and keep its result; False where none is open.

        The first chunks of all jobs come before the second ones. The lease is renewed while `score` runs. A chunk that
        failed, or whose worker died, is open again; `Chunk.attempt` tells how often it was tried. What a worker that is
        cancelled gives back was not tried.

        Raises:
            ResultsLate: `score` took longer than the deadline.
            StoreUnavailable: the database cannot be used now.
            Exception: whatever `score` raised.
        """
        owner, lease = uuid.uuid4().hex, self._timing.lease_seconds
        chunk = await self._database.write(lambda connection: queries.claim(connection, owner, version, lease))
        if chunk is None:
            return False
        tries = chunk.attempt
        async with given_back_on_failure(lambda: self._release(chunk, tries)):
            try:
                result = await self._scored(chunk, score, deadline_seconds)
            except asyncio.CancelledError:
                # A worker that is told to stop says nothing of the chunk.
                tries -= 1
                raise
            await self._end(chunk, result)
        return True

    async def progress(self, caller: str, batch_id: str) -> BatchProgress:
        """How far the caller's batch is.

        Raises:
            BatchNotFound: see `errors`.
            StoreUnavailable: the database cannot be used now.
        """
        row = await self._database.read(lambda connection: queries.progress(connection, caller, batch_id))
        if row is None:
            raise BatchNotFound(batch_id)
        return _progress(batch_id, row)

    async def results(self, caller: str, batch: BatchProgress) -> AsyncIterator[bytes]:
        """The results of the finished chunks of a batch, in order, all those at least that `batch` counts; read from
        the database a few at a time.

        Raises:
            BatchNotFound: see `errors`; its time may be over before all are read.
            StoreUnavailable: the database cannot be used now.
        """
        for start in range(0, batch.chunks, _CHUNKS_READ_AT_ONCE):
            found = await self._results(caller, batch.batch_id, start)
            if not found:
                raise BatchNotFound(batch.batch_id)
            for result in found:
                if result is not None:
                    yield result

    async def _results(self, caller: str, batch_id: str, start: int) -> Sequence[bytes | None]:
        return await self._database.read(
            lambda connection: queries.results(connection, caller, batch_id, start, _CHUNKS_READ_AT_ONCE)
        )

    async def cancel(self, caller: str, batch_id: str) -> BatchProgress:
        """Give no more of the batch to workers, and keep no request of it; what is finished stays, and a batch that is
        done stays done.

        Raises:
            BatchNotFound: see `errors`.
            StoreUnavailable: the database cannot be used now.
        """
        await self._database.write(lambda connection: queries.cancel(connection, caller, batch_id))
        return await self.progress(caller, batch_id)

    async def _end(self, chunk: Chunk, result: bytes | Later) -> None:
        if isinstance(result, Later):
            await self._database.write(lambda connection: queries.rest(connection, chunk, result.seconds))
        else:
            await self._database.write(lambda connection: queries.save(connection, chunk, result))

    async def _scored(self, chunk: Chunk, score: Score, deadline_seconds: float) -> bytes | Later:
        async def renew() -> None:
            lease = self._timing.lease_seconds
            await self._database.write(lambda connection: queries.renew(connection, chunk, lease))

        async with within(1, deadline_seconds), renewed(renew, self._timing.renewal_seconds):
            return await score(chunk)

    async def _release(self, chunk: Chunk, tries: int) -> None:
        await self._database.write(lambda connection: queries.release(connection, chunk, tries))


def _progress(batch_id: str, row: queries.Counted) -> BatchProgress:
    running = "done" if row.finished == row.chunks else "running"
    state = "cancelled" if row.cancelled else running
    return BatchProgress(batch_id, state, row.chunks, row.finished, row.created_at, row.expires_at)
