"""`Idempotency-Key`: one answer for a request, however often it is sent."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from reward_service.store.idempotency import Conflict, Fresh, InFlight, Replay
from reward_service.store.timing import Timing
from tests.reward_service.store.computing import SOON, until

LAPSED = Timing(request_lease_seconds=0.0)
"""A request in flight may be taken over at once."""
EXPIRED = Timing(keep_seconds=0.0)
"""An entry is forgotten at once."""


async def fresh(store, caller: str = "alice", key: str = "k1", fingerprint: str = "f1") -> Fresh:
    beginning = await store.idempotency.begin(caller, key, fingerprint)
    assert isinstance(beginning, Fresh)
    return beginning


async def test_a_repeated_request_gets_the_same_answer_after_a_restart(replica):
    first = await replica()
    answer = Replay(200, bytes(range(256)))
    assert await first.idempotency.finish(await fresh(first), answer.status, answer.body) == answer
    await first.aclose()
    assert await (await replica()).idempotency.begin("alice", "k1", "f1") == answer


async def test_a_request_that_is_being_answered_is_in_flight_on_every_replica(replica):
    one, other = await replica(), await replica()
    await fresh(one)
    beginning = await other.idempotency.begin("alice", "k1", "f1")
    assert isinstance(beginning, InFlight)
    # The default lease is 10 s, and some of it is over.
    assert 0 < beginning.seconds_left <= 10


async def test_of_many_at_once_one_is_fresh(replica):
    stores = [await replica(), await replica()]
    beginnings = await asyncio.gather(*(store.idempotency.begin("alice", "k1", "f1") for store in stores * 8))
    assert sorted(type(beginning).__name__ for beginning in beginnings) == ["Fresh"] + ["InFlight"] * 15


async def test_another_request_under_the_same_key_is_a_conflict_before_and_after_the_answer(store):
    entry = await fresh(store)
    assert await store.idempotency.begin("alice", "k1", "f2") == Conflict()
    await store.idempotency.finish(entry, 200, b"answer")
    assert await store.idempotency.begin("alice", "k1", "f2") == Conflict()


async def test_the_keys_of_two_callers_never_meet(store):
    await store.idempotency.finish(await fresh(store, "alice"), 200, b"for alice")
    assert isinstance(await store.idempotency.begin("bob", "k1", "f2"), Fresh)


async def test_an_abandoned_request_may_be_tried_again(store):
    await store.idempotency.abandon(await fresh(store))
    await fresh(store, fingerprint="f2")


async def test_an_answer_cannot_be_abandoned(store):
    entry = await fresh(store)
    await store.idempotency.finish(entry, 200, b"answer")
    await store.idempotency.abandon(entry)
    assert await store.idempotency.begin("alice", "k1", "f1") == Replay(200, b"answer")


async def test_a_request_whose_replica_was_lost_is_fresh_when_its_lease_ends(replica):
    lost, other = await replica(LAPSED), await replica()
    await fresh(lost)
    # Still not for another request.
    assert await other.idempotency.begin("alice", "k1", "f2") == Conflict()
    await fresh(other)


async def test_a_killed_replica_holds_its_request_for_one_lease_and_then_another_takes_it_over(place, replica):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.reward_service.store.lost_request"),
        *(place.config.model_dump_json(), "1.5"),
        env=os.environ | dict(place.environment),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), SOON) == b"answering\n"
    other = await replica()
    process.kill()
    await process.communicate()
    beginnings = [await other.idempotency.begin("alice", "k1", "f1")]
    async with asyncio.timeout(SOON):
        while isinstance(beginnings[-1], InFlight):
            await asyncio.sleep(beginnings[-1].seconds_left)
            beginnings.append(await other.idempotency.begin("alice", "k1", "f1"))
    first, entry = beginnings[0], beginnings[-1]
    assert isinstance(first, InFlight)
    assert 0 < first.seconds_left <= 1.5
    assert isinstance(entry, Fresh)
    assert await other.idempotency.finish(entry, 200, b"of the other") == Replay(200, b"of the other")


async def test_of_two_answers_the_first_is_kept_and_both_send_it(replica):
    late, other = await replica(LAPSED), await replica()
    first, second = await fresh(late), await fresh(other)
    assert await late.idempotency.finish(first, 200, b"first") == Replay(200, b"first")
    assert await other.idempotency.finish(second, 200, b"second") == Replay(200, b"first")
    assert await other.idempotency.begin("alice", "k1", "f1") == Replay(200, b"first")


async def test_a_late_try_does_not_abandon_the_one_that_took_over(replica):
    late, other = await replica(LAPSED), await replica()
    first = await fresh(late)
    await fresh(other)
    await late.idempotency.abandon(first)
    assert isinstance(await other.idempotency.begin("alice", "k1", "f1"), InFlight)


@pytest.mark.parametrize("fingerprint", ["f1", "f2"])
async def test_an_expired_key_is_free_for_any_request(replica, fingerprint):
    short, other = await replica(EXPIRED), await replica()
    await short.idempotency.finish(await fresh(short), 200, b"answer")
    await fresh(other, fingerprint=fingerprint)
    assert isinstance(await other.idempotency.begin("alice", "k1", fingerprint), InFlight)


async def test_an_answer_that_comes_after_everything_expired_is_still_the_answer(place, replica):
    short = await replica(EXPIRED)
    entry = await fresh(short)
    # Opening a store sweeps.
    await replica(Timing(sweep_seconds=0.01))
    await until(lambda: not place.query("SELECT caller FROM idempotency"))
    assert await short.idempotency.finish(entry, 200, b"late") == Replay(200, b"late")


async def test_a_request_that_is_held_stays_in_flight_beyond_its_lease(replica):
    one, other = await replica(Timing(request_lease_seconds=0.6)), await replica()
    entry = await fresh(one)
    async with one.idempotency.held(entry):
        await asyncio.sleep(1.2)
        assert isinstance(await other.idempotency.begin("alice", "k1", "f1"), InFlight)


def test_a_replica_that_waits_for_the_databases_lock_as_long_as_it_may_renews_in_time():
    timing = Timing()
    assert timing.request_renewal_seconds + timing.lock_seconds < timing.request_lease_seconds


async def test_a_request_whose_answering_fails_may_be_tried_again(store):
    entry = await fresh(store)
    with pytest.raises(RuntimeError, match="broken"):
        async with store.idempotency.held(entry):
            raise RuntimeError("broken")
    await fresh(store)
