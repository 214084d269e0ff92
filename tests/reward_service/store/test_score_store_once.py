"""`Once`: what one caller, and callers of one process, may count on."""

from __future__ import annotations

import asyncio
import logging

import pytest

from reward_service.store.errors import ResultsLate, StoreUnavailable
from reward_service.store.keys import Key
from reward_service.store.once import Failure
from tests.reward_service.store.computing import SOON, Counting, Held, HeldThenFailing, key

EVERY_BYTE = bytes(range(256))


async def test_results_come_in_the_order_of_the_keys_and_a_repeated_key_is_computed_once(any_once):
    keys = [key("b"), key("a"), key("b"), key("c"), key("a")]
    compute = Counting(keys)
    assert await any_once.results(keys, compute, SOON) == [b"b", b"a", b"b", b"c", b"a"]
    assert [sorted(call) for call in compute.calls] == [[0, 1, 3]]


async def test_no_keys_compute_nothing(any_once):
    compute = Counting([])
    assert await any_once.results([], compute, SOON) == []
    assert compute.calls == []


async def test_one_failure_stands_in_its_place_and_costs_the_others_nothing(any_once):
    error = RuntimeError("judge: no reply")

    async def compute(positions):
        return [Failure(error) if position == 1 else b"%d" % position for position in positions]

    outcomes = await any_once.results([key("a"), key("b"), key("c")], compute, SOON)
    assert outcomes == [b"0", Failure(error), b"2"]


async def test_what_the_computation_raises_reaches_its_caller(any_once):
    async def compute(positions):
        raise TimeoutError("judge: 30 s")

    # Not taken for the deadline of the results.
    with pytest.raises(TimeoutError, match="judge: 30 s"):
        await any_once.results([key()], compute, SOON)


@pytest.mark.parametrize(
    ("outcomes", "error", "message"),
    [
        ([b"1"], ValueError, "1 outcomes for 2 positions"),
        ([b"1", b"2", b"3"], ValueError, "3 outcomes for 2 positions"),
        ([b"1", "2"], TypeError, "outcomes of type str; return bytes"),
    ],
)
async def test_a_computation_that_breaks_its_contract_is_told_so(any_once, outcomes, error, message):
    async def compute(positions):
        return outcomes

    with pytest.raises(error, match=message):
        await any_once.results([key("a"), key("b")], compute, SOON)


async def test_the_deadline_ends_the_computation(any_once):
    compute = Held([key()])
    with pytest.raises(ResultsLate, match=r"not all 1 were there after 0\.2 s"):
        await any_once.results([key()], compute, 0.2)


@pytest.mark.parametrize("value", [b"", EVERY_BYTE, EVERY_BYTE * 8192], ids=["empty", "every byte", "2 MiB"])
async def test_a_hit_gives_the_very_bytes_after_a_restart(replica, value):
    async def compute(positions):
        return [value]

    first = await replica()
    await first.once.results([key()], compute, SOON)
    await first.aclose()
    later = Counting([key()])
    assert await (await replica()).once.results([key()], later, SOON) == [value]
    assert later.calls == []


async def test_kind_version_digest_and_ordinal_each_make_another_result(store):
    keys = [
        Key("score", "v1", "d1"),
        Key("vote", "v1", "d1"),
        Key("score", "v2", "d1"),
        Key("score", "v1", "d2"),
        Key("score", "v1", "d1", 1),
    ]

    async def number(positions):
        return [b"%d" % position for position in positions]

    numbered = [b"0", b"1", b"2", b"3", b"4"]
    assert await store.once.results(keys, number, SOON) == numbered
    again = Counting(keys)
    assert await store.once.results(keys[::-1], again, SOON) == numbered[::-1]
    assert again.calls == []


async def test_only_what_is_missing_is_computed(store):
    await store.once.results([key("a"), key("c")], Counting([key("a"), key("c")]), SOON)
    keys = [key("a"), key("b"), key("c"), key("d")]
    compute = Counting(keys)
    assert await store.once.results(keys, compute, SOON) == [b"a", b"b", b"c", b"d"]
    assert compute.calls == [[1, 3]]


async def test_a_failure_is_not_kept(store):
    keys = [key("a"), key("b")]

    async def half(positions):
        return [b"a", Failure(RuntimeError("no reply"))]

    await store.once.results(keys, half, SOON)
    compute = Counting(keys)
    assert await store.once.results(keys, compute, SOON) == [b"a", b"b"]
    assert compute.calls == [[1]]


async def test_more_keys_than_one_query_takes(store):
    keys = [key(f"{number}") for number in range(6000)]
    values = [item.digest.encode() for item in keys]
    first, second = Counting(keys), Counting(keys)
    assert await store.once.results(keys, first, SOON) == values
    assert await store.once.results(keys, second, SOON) == values
    assert (len(first.calls), second.calls) == (1, [])


async def test_callers_of_one_process_share_a_computation(store):
    held, unwanted = Held([key("a")]), Counting([key("a"), key("b")])
    first = asyncio.create_task(store.once.results([key("a")], held, SOON))
    await held.begun.wait()
    second = asyncio.create_task(store.once.results([key("a"), key("b")], unwanted, SOON))
    await asyncio.sleep(0)
    held.let_go.set()
    assert await first == [b"a"]
    assert await second == [b"a", b"b"]
    assert (held.calls, unwanted.calls) == ([[0]], [[1]])


async def test_two_callers_who_each_compute_what_the_other_waits_for_do_not_block_each_other(store):
    forward, backward = Held([key("a"), key("b")]), Held([key("b"), key("c"), key("a")])
    first = asyncio.create_task(store.once.results([key("a"), key("b")], forward, SOON))
    await forward.begun.wait()
    second = asyncio.create_task(store.once.results([key("b"), key("c"), key("a")], backward, SOON))
    await backward.begun.wait()
    backward.let_go.set()
    forward.let_go.set()
    assert await first == [b"a", b"b"]
    assert await second == [b"b", b"c", b"a"]
    assert backward.calls == [[1]]


async def test_a_caller_who_leaves_does_not_take_the_computation_with_it(store):
    held, unwanted = Held([key()]), Counting([key()])
    leaving = asyncio.create_task(store.once.results([key()], held, SOON))
    await held.begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    returning = asyncio.create_task(store.once.results([key()], unwanted, SOON))
    held.let_go.set()
    assert await returning == [b"a"]
    assert unwanted.calls == []


async def test_an_error_whose_caller_has_left_is_logged_without_its_text(store, caplog):
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def fail(positions):
        begun.set()
        await let_go.wait()
        raise RuntimeError("text of a trajectory")

    leaving = asyncio.create_task(store.once.results([key()], fail, SOON))
    await begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with caplog.at_level(logging.WARNING):
        let_go.set()
        # Its claim is free again once it has failed.
        assert await store.once.results([key()], Counting([key()]), SOON) == [b"a"]
    assert "results whose caller had left were not computed: RuntimeError" in caplog.text
    assert "text of a trajectory" not in caplog.text


async def test_who_waited_for_a_failed_computation_computes_itself(store):
    failing, second = HeldThenFailing([key()]), Counting([key()], b" of the second")
    first = asyncio.create_task(store.once.results([key()], failing, SOON))
    await failing.begun.wait()
    waiting = asyncio.create_task(store.once.results([key()], second, SOON))
    await asyncio.sleep(0)
    failing.let_go.set()
    (outcome,) = await first
    assert isinstance(outcome, Failure)
    assert await waiting == [b"a of the second"]


async def test_who_has_more_time_goes_on_when_the_first_caller_has_none_left(store):
    held, second = Held([key()]), Counting([key()], b" of the second")
    first = asyncio.create_task(store.once.results([key()], held, 0.3))
    await held.begun.wait()
    waiting = asyncio.create_task(store.once.results([key()], second, SOON))
    with pytest.raises(ResultsLate):
        await first
    assert await waiting == [b"a of the second"]


async def test_a_store_that_closes_tells_its_callers_and_gives_its_claims_back(replica):
    closing, other = await replica(), await replica()
    held = Held([key()])
    caller = asyncio.create_task(closing.once.results([key()], held, SOON))
    await held.begun.wait()
    await closing.aclose()
    with pytest.raises(StoreUnavailable, match="closed by its owner"):
        await caller
    # Long before the lease of 30 s ends.
    assert await other.once.results([key()], Counting([key()]), 10.0) == [b"a"]
    with pytest.raises(StoreUnavailable, match="closed by its owner"):
        await closing.once.results([key()], held, SOON)
