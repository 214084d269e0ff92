"""`Once` across replicas: two stores on one database stand for two, and one that is killed is a real process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from reward_service.store.errors import ResultsLate
from reward_service.store.once import Failure
from reward_service.store.opening import open_store
from reward_service.store.timing import Timing
from tests.reward_service.store.computing import SOON, Counting, Held, HeldThenFailing, key, until

# 50 keys of which 30 % occur twice: 35 results.
UNIQUE, ASKED = 35, 50
CALLERS = 4


def asked(seed: int) -> list:
    """Every key, 15 of them twice, in an order of the caller's own."""
    keys = [key(f"{number % UNIQUE}") for number in range(ASKED)]
    random.Random(seed).shuffle(keys)
    return keys


async def test_two_replicas_with_four_callers_each_compute_every_key_once(replica):
    stores = [await replica(), await replica()]
    jobs = [(store, Counting(asked(caller))) for caller, store in enumerate(stores * CALLERS)]
    outcomes = await asyncio.gather(*(store.once.results(job.keys, job, SOON) for store, job in jobs))
    assert outcomes == [[item.digest.encode() for item in job.keys] for _, job in jobs]
    times = sum((job.times for _, job in jobs), Counter())
    assert (len(times), set(times.values())) == (UNIQUE, {1})


async def test_a_replica_waits_for_what_the_other_computes(replica):
    one, other = await replica(), await replica()
    held, unwanted = Held([key("a")]), Counting([key("a"), key("b")])
    first = asyncio.create_task(one.once.results([key("a")], held, SOON))
    await held.begun.wait()
    second = asyncio.create_task(other.once.results([key("a"), key("b")], unwanted, SOON))
    held.let_go.set()
    assert await first == [b"a"]
    assert await second == [b"a", b"b"]
    assert unwanted.calls == [[1]]


async def test_a_replica_computes_itself_what_the_other_failed_at(replica):
    one, other = await replica(), await replica()
    failing, second = HeldThenFailing([key()]), Counting([key()])
    first = asyncio.create_task(one.once.results([key()], failing, SOON))
    await failing.begun.wait()
    waiting = asyncio.create_task(other.once.results([key()], second, 10.0))
    failing.let_go.set()
    assert isinstance((await first)[0], Failure)
    # Long before the lease of 30 s ends.
    assert await waiting == [b"a"]


async def test_a_lease_is_renewed_for_as_long_as_the_computation_takes(replica):
    short = Timing(lease_seconds=1.5)
    one, other = await replica(short), await replica(short)
    held, unwanted = Held([key()]), Counting([key()])
    first = asyncio.create_task(one.once.results([key()], held, SOON))
    await held.begun.wait()
    with pytest.raises(ResultsLate):
        await other.once.results([key()], unwanted, 3.0)
    held.let_go.set()
    assert await first == [b"a"]
    assert unwanted.calls == []


async def test_a_killed_replica_loses_its_claims_when_their_lease_ends(place, replica):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.reward_service.store.lost_replica",
        place.config.model_dump_json(),
        "1.0",
        env=os.environ | dict(place.environment),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), SOON) == b"computing\n"
    process.kill()
    await process.communicate()
    survivor, keys = await replica(), [key("a"), key("b")]
    compute = Counting(keys)
    assert await survivor.once.results(keys, compute, SOON) == [b"a", b"b"]
    assert sorted(position for call in compute.calls for position in call) == [0, 1]


@contextlib.asynccontextmanager
async def frozen_owner(place) -> AsyncIterator[tuple[asyncio.Task, threading.Event]]:
    """A replica whose whole loop stands still while it computes, so that its lease ends; and what thaws it."""
    frozen, thawed = threading.Event(), threading.Event()

    async def freeze(positions):
        frozen.set()
        assert thawed.wait(SOON)
        return [b"of the late owner"]

    async def compute() -> list:
        async with await open_store(place.config, place.environment, Timing(lease_seconds=0.3)) as store:
            return list(await store.once.results([key()], freeze, SOON))

    owner = asyncio.create_task(asyncio.to_thread(asyncio.run, compute()))
    try:
        assert await asyncio.to_thread(frozen.wait, SOON)
        yield owner, thawed
    finally:
        thawed.set()


async def test_a_late_owner_gets_what_was_stored_in_its_absence(place, replica):
    async with frozen_owner(place) as (owner, thawed):
        other = await replica()
        assert await other.once.results([key()], Counting([key()], b" of the other"), SOON) == [b"a of the other"]
        thawed.set()
        assert await owner == [b"a of the other"]
        assert await other.once.results([key()], Counting([key()]), SOON) == [b"a of the other"]


async def test_what_a_late_owner_stores_first_is_what_everybody_gets(place, replica):
    async with frozen_owner(place) as (owner, thawed):
        other, held = await replica(), Held([key()], b" of the other")
        second = asyncio.create_task(other.once.results([key()], held, SOON))
        await held.begun.wait()
        thawed.set()
        assert await owner == [b"of the late owner"]
        held.let_go.set()
        assert await second == [b"of the late owner"]


async def test_a_claim_that_nobody_asks_for_again_is_swept_away_and_a_late_value_is_kept(place, replica):
    one = await replica(Timing(lease_seconds=0.0))
    held = Held([key()])
    caller = asyncio.create_task(one.once.results([key()], held, SOON))
    await held.begun.wait()
    assert place.query("SELECT digest, value FROM results") == [("a", None)]
    await replica(Timing(sweep_seconds=0.01))
    await until(lambda: not place.query("SELECT digest FROM results"))
    held.let_go.set()
    assert await caller == [b"a"]
    unwanted = Counting([key()])
    assert await (await replica()).once.results([key()], unwanted, SOON) == [b"a"]
    assert unwanted.calls == []
