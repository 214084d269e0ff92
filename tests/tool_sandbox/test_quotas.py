"""Token buckets: who waits, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.tool_sandbox.clocks import Clock
from tool_sandbox.http.keys import Quota, Unit
from tool_sandbox.http.quotas import Bucket, Quotas

SECOND = 10**9


def test_a_full_bucket_gives_a_minute_s_worth_at_once_and_then_one_every_share_of_it():
    bucket = Bucket(6, now=0)
    assert [bucket.take(1, now=0) for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    assert bucket.take(1, now=10 * SECOND - 1) == 1
    assert bucket.take(1, now=10 * SECOND) == 0
    assert bucket.take(1, now=10 * SECOND) == 10


def test_the_wait_is_rounded_up_to_whole_seconds():
    bucket = Bucket(7, now=0)
    assert bucket.take(7, now=0) == 0
    # One token takes 60/7 = 8.57 s.
    assert bucket.take(1, now=0) == 9
    assert bucket.take(1, now=8 * SECOND) == 1


def test_rest_fills_a_bucket_up_to_its_brim():
    bucket = Bucket(2, now=0)
    assert [bucket.take(1, now=3600 * SECOND) for _ in range(3)] == [0, 0, 30]


def test_more_than_a_bucket_holds_is_lent_to_a_full_one_and_paid_back_before_the_next():
    bucket = Bucket(10, now=0)
    assert bucket.take(1, now=0) == 0
    # Nine are there; the ten that a full bucket has are, 6 s later.
    assert bucket.take(25, now=0) == 6
    assert bucket.take(25, now=6 * SECOND) == 0
    # It owes 15, and one more is wanted: 16 tokens of 6 s each.
    assert bucket.take(1, now=6 * SECOND) == 96
    assert bucket.take(1, now=102 * SECOND) == 0


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(1, 10**7), st.integers(0, 10**11)), max_size=20))
def test_who_waits_as_told_is_let_in_and_a_second_earlier_is_not(per_minute, takes):
    bucket, now = Bucket(per_minute, now=0), 0
    for tokens, pause in takes:
        now += pause
        seconds = bucket.take(tokens, now)
        if seconds:
            assert bucket.take(tokens, now + (seconds - 1) * SECOND) == 1
            now += seconds * SECOND
            assert bucket.take(tokens, now) == 0


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10**10)), max_size=50))
def test_no_pattern_of_requests_gets_more_than_the_quota(per_minute, takes):
    bucket, now, given_out, largest = Bucket(per_minute, now=0), 0, 0, 0
    for tokens, pause in takes:
        now += pause
        if bucket.take(tokens, now) == 0:
            given_out, largest = given_out + tokens, max(largest, tokens)
    assert given_out * 60 * SECOND <= per_minute * now + (per_minute + largest) * 60 * SECOND


def test_each_name_has_its_own_bucket_and_a_changed_quota_begins_full():
    clock = Clock()
    quotas, few, more = Quotas(clock), Quota(1), Quota(2)
    assert [quotas.take("anna", few, 1), quotas.take("anna", few, 1), quotas.take("bert", few, 1)] == [0, 60, 0]
    assert [quotas.take("anna", more, 1), quotas.take("anna", more, 1), quotas.take("anna", more, 1)] == [0, 0, 30]
    assert quotas.take("anna", Quota(1, Unit.TRAJECTORIES), 1) == 0
    clock.wait(60)
    assert quotas.take("anna", few, 1) == 0
