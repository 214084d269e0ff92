"""Batches: long jobs that go on after a restart, and that only their caller sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from reward_service.store.batch_queries import Chunk
from reward_service.store.batches import Later
from reward_service.store.errors import BatchNotFound, ResultsLate, TooManyBatches
from reward_service.store.timing import Timing
from tests.reward_service.store.computing import until

SOON = 30.0
V1, V2 = "version-1", "version-2"


class Worker:
    """Scores a chunk by putting its request in capitals; keeps what it was given."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    async def __call__(self, chunk: Chunk) -> bytes:
        self.chunks.append(chunk)
        return chunk.request.upper()


class HeldWorker(Worker):
    """Begins, says so, and ends when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, chunk: Chunk) -> bytes:
        self.begun.set()
        await self.let_go.wait()
        return await super().__call__(chunk)


async def work_off(store, worker: Callable[[Chunk], Awaitable[bytes]]) -> int:
    """Work until nothing is open; how many chunks that were."""
    done = 0
    while await store.batches.work(V1, worker, SOON):
        done += 1
    return done


async def counts(store, caller: str, batch_id: str) -> tuple[str, int, int]:
    progress = await store.batches.progress(caller, batch_id)
    return progress.state, progress.finished, progress.chunks


async def results(store, caller: str, batch_id: str) -> list[bytes]:
    progress = await store.batches.progress(caller, batch_id)
    return [result async for result in store.batches.results(caller, progress)]


async def test_a_batch_from_its_beginning_to_its_end(store):
    batch_id = await store.batches.create("alice", V1, [b"x", bytes(range(256))])
    assert await counts(store, "alice", batch_id) == ("running", 0, 2)
    assert await store.batches.work(V1, Worker(), SOON)
    assert await counts(store, "alice", batch_id) == ("running", 1, 2)
    assert await results(store, "alice", batch_id) == [b"X"]
    assert await work_off(store, Worker()) == 1
    assert await counts(store, "alice", batch_id) == ("done", 2, 2)
    assert await results(store, "alice", batch_id) == [b"X", bytes(range(256)).upper()]


async def test_a_batch_lives_for_a_day(store):
    progress = await store.batches.progress("alice", await store.batches.create("alice", V1, [b"x"]))
    assert progress.expires_at - progress.created_at == pytest.approx(86_400, abs=1)


async def test_a_batch_without_chunks_is_refused(store):
    with pytest.raises(ValueError, match="0 chunks; expected at least 1"):
        await store.batches.create("alice", V1, [])


async def test_nothing_to_do_is_no_work(store):
    assert not await store.batches.work(V1, Worker(), SOON)


@pytest.mark.parametrize("caller", ["bob", ""])
async def test_another_caller_cannot_find_a_batch_nor_cancel_it(store, caller):
    batch_id = await store.batches.create("alice", V1, [b"x"])
    for ask in (store.batches.progress, store.batches.cancel):
        with pytest.raises(BatchNotFound, match=batch_id):
            await ask(caller, batch_id)
        with pytest.raises(BatchNotFound, match="'no-such-batch'"):
            await ask("alice", "no-such-batch")
    known = await store.batches.progress("alice", batch_id)
    with pytest.raises(BatchNotFound, match=batch_id):
        await anext(store.batches.results(caller, known))
    assert await counts(store, "alice", batch_id) == ("running", 0, 1)


async def test_jobs_take_turns_so_that_a_long_one_does_not_hold_up_a_short_one(store):
    long = await store.batches.create("alice", V1, [b"a0", b"a1", b"a2"])
    short = await store.batches.create("bob", V1, [b"b0", b"b1"])
    worker = Worker()
    assert await work_off(store, worker) == 5
    taken = [(chunk.batch_id, chunk.position) for chunk in worker.chunks]
    assert taken == [(long, 0), (short, 0), (long, 1), (short, 1), (long, 2)]


async def test_a_chunk_is_taken_by_workers_of_its_version_alone(store):
    batch_id = await store.batches.create("alice", V1, [b"x"])
    assert not await store.batches.work(V2, Worker(), SOON)
    worker = Worker()
    assert await store.batches.work(V1, worker, SOON)
    assert [chunk.attempt for chunk in worker.chunks] == [1]
    assert await results(store, "alice", batch_id) == [b"X"]


async def test_a_version_is_attended_as_long_as_a_service_that_has_it_says_so(replica):
    leaving, staying = await replica(Timing(attended_seconds=0.0)), await replica()
    await leaving.batches.create("alice", V1, [b"x"])
    assert await staying.batches.attend(V2) == {V1}
    assert await staying.batches.attend(V1) == frozenset()
    assert await staying.batches.attend(V2) == frozenset()
    await leaving.batches.attend(V1)
    assert await staying.batches.attend(V2) == {V1}
    assert await work_off(leaving, Worker()) == 1
    # Nothing of it is open.
    assert await staying.batches.attend(V2) == frozenset()


async def test_a_batch_waits_an_hour_for_a_service_of_its_version(place, store):
    await store.batches.create("alice", V1, [b"x"])
    ((waits,),) = place.query(f"SELECT attended_until - created_at FROM batch_versions, batches WHERE version = '{V1}'")
    assert waits == pytest.approx(3600, abs=1)


async def test_workers_of_two_replicas_take_every_chunk_once(replica):
    stores = [await replica(), await replica()]
    requests = [b"%d" % number for number in range(20)]
    batch_id = await stores[0].batches.create("alice", V1, requests)
    worker = Worker()
    assert sum(await asyncio.gather(*(work_off(store, worker) for store in stores * 3))) == 20
    assert sorted(chunk.position for chunk in worker.chunks) == list(range(20))
    assert await results(stores[1], "alice", batch_id) == requests


async def test_a_job_goes_on_after_a_restart(replica):
    first = await replica()
    batch_id = await first.batches.create("alice", V1, [b"a", b"b"])
    await first.batches.create("alice", V1, [b"c"])
    await first.batches.work(V1, Worker(), SOON)
    await first.batches.work(V1, Worker(), SOON)
    await first.aclose()
    second = await replica()
    assert await work_off(second, Worker()) == 1
    assert await results(second, "alice", batch_id) == [b"A", b"B"]


async def test_a_chunk_that_failed_is_open_again_and_counts_its_attempts(store):
    await store.batches.create("alice", V1, [b"x"])

    async def fail(chunk: Chunk) -> bytes:
        raise RuntimeError("no reply")

    with pytest.raises(RuntimeError, match="no reply"):
        await store.batches.work(V1, fail, SOON)
    worker = Worker()
    assert await work_off(store, worker) == 1
    assert [chunk.attempt for chunk in worker.chunks] == [2]


async def test_a_chunk_that_rests_is_nobodys_for_so_long_and_then_open_again(store):
    await store.batches.create("alice", V1, [b"x"])

    async def later(chunk: Chunk) -> Later:
        return Later(3600.0 if chunk.attempt > 1 else 0.0)

    assert await store.batches.work(V1, later, SOON)
    assert await store.batches.work(V1, later, SOON)
    # The first rest was over at once, the second takes an hour.
    assert not await store.batches.work(V1, later, SOON)


async def test_the_request_of_a_chunk_is_gone_when_its_result_is_there(place, replica):
    store = await replica()
    await store.batches.create("alice", V1, [b"a", b"b"])
    await store.batches.work(V1, Worker(), SOON)
    kept = sorted(bytes(request) for (request,) in place.query("SELECT request FROM batch_chunks"))
    assert kept == [b"", b"b"]


async def test_a_caller_has_no_more_open_batches_than_it_may(store):
    done = await store.batches.create("alice", V1, [b"a"])
    await work_off(store, Worker())
    cancelled = await store.batches.create("alice", V1, [b"b"])
    await store.batches.cancel("alice", cancelled)
    await store.batches.expect_room("alice", 1)
    await store.batches.create("alice", V1, [b"c"])
    with pytest.raises(TooManyBatches, match="1 of yours are open, at most 1 may be"):
        await store.batches.expect_room("alice", 1)
    await store.batches.expect_room("bob", 1)
    assert (await counts(store, "alice", done))[0] == "done"


async def test_a_chunk_that_takes_longer_than_its_deadline_is_open_again(store):
    await store.batches.create("alice", V1, [b"x"])
    with pytest.raises(ResultsLate):
        await store.batches.work(V1, HeldWorker(), 0.1)
    assert await work_off(store, Worker()) == 1


async def test_a_worker_that_is_cancelled_gives_its_chunk_back_untried(store):
    await store.batches.create("alice", V1, [b"x"])
    held = HeldWorker()
    working = asyncio.create_task(store.batches.work(V1, held, SOON))
    await held.begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    worker = Worker()
    assert await work_off(store, worker) == 1
    assert [chunk.attempt for chunk in worker.chunks] == [1]


async def test_a_chunk_in_work_is_nobody_elses_for_as_long_as_it_takes(replica):
    one, other = await replica(Timing(lease_seconds=1.5)), await replica()
    batch_id = await one.batches.create("alice", V1, [b"x"])
    held = HeldWorker()
    working = asyncio.create_task(one.batches.work(V1, held, SOON))
    await held.begun.wait()
    # Twice the lease; only a renewal outlasts it.
    for _ in range(30):
        assert not await other.batches.work(V1, Worker(), SOON)
        await asyncio.sleep(0.1)
    held.let_go.set()
    assert await working
    assert await results(one, "alice", batch_id) == [b"X"]


async def test_a_lost_workers_chunk_is_taken_over_and_the_first_result_stays(replica):
    lost, other = await replica(Timing(lease_seconds=0.0)), await replica()
    batch_id = await lost.batches.create("alice", V1, [b"x"])
    held = HeldWorker()
    late = asyncio.create_task(lost.batches.work(V1, held, SOON))
    await held.begun.wait()

    async def second(chunk: Chunk) -> bytes:
        return b"of attempt %d" % chunk.attempt

    async with asyncio.timeout(SOON):
        # A worker passes by what is locked, and a renewal of the lost one may hold the chunk at the moment.
        while not await other.batches.work(V1, second, SOON):
            pass
    held.let_go.set()
    assert await late
    assert await results(other, "alice", batch_id) == [b"of attempt 2"]


async def test_a_cancelled_batch_keeps_what_is_finished_and_gives_out_no_more(store):
    batch_id = await store.batches.create("alice", V1, [b"a", b"b"])
    await store.batches.work(V1, Worker(), SOON)
    assert (await store.batches.cancel("alice", batch_id)).state == "cancelled"
    assert await work_off(store, Worker()) == 0
    assert await results(store, "alice", batch_id) == [b"A"]
    assert (await store.batches.cancel("alice", batch_id)).state == "cancelled"


async def test_the_requests_of_a_cancelled_batch_are_gone_and_a_chunk_in_work_is_kept_all_the_same(place, replica):
    store = await replica()
    batch_id = await store.batches.create("alice", V1, [b"a", b"b", b"c"])
    await store.batches.create("alice", V1, [b"another"])
    held = HeldWorker()
    working = asyncio.create_task(store.batches.work(V1, held, SOON))
    await held.begun.wait()
    await store.batches.cancel("alice", batch_id)
    kept = [bytes(request) for (request,) in place.query("SELECT request FROM batch_chunks ORDER BY request")]
    assert kept == [b"", b"", b"", b"another"]
    held.let_go.set()
    assert await working
    assert await results(store, "alice", batch_id) == [b"A"]


async def test_results_that_vanish_while_they_are_read_are_not_taken_for_all(place, replica):
    store = await replica()
    batch_id = await store.batches.create("alice", V1, [b"%d" % number for number in range(10)])
    await work_off(store, Worker())
    reading = store.batches.results("alice", await store.batches.progress("alice", batch_id))
    assert await anext(reading) == b"0"
    place.query("UPDATE batches SET expires_at = 0")
    with pytest.raises(BatchNotFound, match=batch_id):
        [result async for result in reading]


async def test_a_batch_that_is_done_stays_done(store):
    batch_id = await store.batches.create("alice", V1, [b"a"])
    await work_off(store, Worker())
    assert (await store.batches.cancel("alice", batch_id)).state == "done"


async def test_an_expired_batch_is_not_found_not_worked_on_and_swept_away(place, replica):
    short = await replica(Timing(keep_seconds=0.0))
    batch_id = await short.batches.create("alice", V1, [b"a"])
    with pytest.raises(BatchNotFound):
        await short.batches.progress("alice", batch_id)
    assert await work_off(short, Worker()) == 0
    await short.batches.attend("forgotten")
    place.query("UPDATE batch_versions SET attended_until = 0 WHERE version = 'forgotten'")
    await replica(Timing(sweep_seconds=0.01))
    await until(lambda: not place.query("SELECT id FROM batches"))
    assert place.query("SELECT position FROM batch_chunks") == []
    await until(lambda: ("forgotten",) not in (found := place.query("SELECT version FROM batch_versions")) and found)
