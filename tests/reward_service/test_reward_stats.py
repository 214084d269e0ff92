"""Counts, latencies and the last five minutes, with a clock that the test turns."""

from __future__ import annotations

import pytest

from reward_service.stats import Stats, quantile
from reward_service.stats_wire import BOUNDS_SECONDS
from reward_service.wire import FailedItem, ItemError, ScoredItem, ScoreResponse


class Clock:
    """Seconds, as the test sets them; they begin somewhere, as those of a machine do."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock) -> Stats:
    return Stats("replica-1", clock)


def scored(*rewards: float | None) -> ScoredItem:
    """A scored trajectory, read from the wire as a client would."""
    steps = [
        {"index": i, "reward": reward, "signals": {"success": None, "contribution": None, "solved": None}}
        for i, reward in enumerate(rewards)
    ]
    total = sum(reward or 0.0 for reward in rewards)
    answer = {
        "reward_version": "v",
        "results": [{"id": "t", "steps": steps, "status": "ok", "solved": 1.0, "total": total}],
    }
    result = ScoreResponse.model_validate(answer).results[0]
    assert isinstance(result, ScoredItem)
    return result


def failed(kind) -> FailedItem:
    return FailedItem(id="t", error=ItemError(kind=kind, message="why"))


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        # Ten observations evenly in (1, 2]: the fifth is half way, 9.9 of ten are 0.99 of the way.
        (0.50, (0, 10, 0), 1.5),
        (0.99, (0, 10, 0), 1.99),
        # Of 100, the first 50 fill (0, 1]; the 75th is 25 of 30 into (1, 2].
        (0.50, (50, 30, 20), 1.0),
        (0.75, (50, 30, 20), 1 + 25 / 30),
        # The 99th lies beyond the last bound, of which nothing is known but the bound.
        (0.99, (50, 30, 20), 2.0),
        (0.50, (1, 0, 0), 0.5),
        (0.50, (0, 0, 3), 2.0),
        (0.50, (0, 0, 0), None),
    ],
)
def test_a_quantile_is_read_from_the_buckets_by_interpolation(share, counts, expected):
    assert quantile(share, counts, bounds=(1.0, 2.0)) == (None if expected is None else pytest.approx(expected))


def test_a_service_that_did_nothing_yet_has_no_latency(stats):
    snapshot = stats.snapshot()
    assert (snapshot.total.requests, snapshot.total.steps) == ({}, 0)
    assert (snapshot.total.p50_seconds, snapshot.recent.p99_seconds) == (None, None)
    assert len(snapshot.slots) == 60


def test_a_latency_on_a_bound_belongs_to_the_bucket_below_it(stats):
    for seconds in (0.0005, 0.00051, 0.001, 60.0, 61.0):
        stats.answered(200, seconds)
    counts = stats.snapshot().total.latency_counts
    assert counts[:3] == (1, 2, 0)
    assert counts[-2:] == (1, 1)
    assert len(counts) == len(BOUNDS_SECONDS) + 1


def test_latencies_become_percentiles_and_a_sum(stats):
    for _ in range(98):
        stats.answered(200, 0.015)
    for _ in range(2):
        stats.answered(200, 0.15)
    total = stats.snapshot().total
    # 98 of 100 lie in (0.01, 0.02], two in (0.1, 0.2]: the 50th is 50/98 into the first, the 99th half into the second.
    assert total.p50_seconds == pytest.approx(0.01 + 0.01 * 50 / 98)
    assert total.p99_seconds == pytest.approx(0.15)
    assert total.latency_sum_seconds == pytest.approx(98 * 0.015 + 2 * 0.15)


def test_answers_are_counted_by_status_and_trajectories_by_outcome(stats):
    for status in (200, 422, 200, 429):
        stats.answered(status, 0.001)
    stats.scored([scored(0.5, None, 1.0), failed("data"), scored(0.0)])
    stats.scored([failed("infrastructure"), failed("data")])
    total = stats.snapshot().total
    assert total.requests == {"200": 2, "422": 1, "429": 1}
    assert total.trajectories == {"ok": 2, "data": 2, "infrastructure": 1}
    # A reward of zero is a reward; only null abstains.
    assert (total.steps, total.abstained_steps) == (4, 1)


def test_a_slot_takes_five_seconds_and_the_last_one_is_still_filling(stats, clock):
    stats.answered(200, 0.001)
    clock.seconds = 1004.9
    stats.answered(200, 0.001)
    clock.seconds = 1005.0
    stats.scored([scored(1.0, 1.0)])
    clock.seconds = 1011.0
    slots = stats.snapshot().slots
    assert [slot.requests for slot in slots[-3:]] == [2, 0, 0]
    assert [slot.steps for slot in slots[-3:]] == [0, 2, 0]
    assert [slot.trajectories for slot in slots[-3:]] == [0, 1, 0]


def test_what_is_older_than_five_minutes_leaves_the_recent_figures_and_stays_in_the_total(stats, clock):
    stats.answered(200, 0.001)
    stats.scored([scored(1.0)])
    clock.seconds = 1007.0
    stats.answered(422, 0.015)
    # The slot that fills at 1299 s is number 59, so slot 0 is still the oldest of sixty; one second later it is not.
    clock.seconds = 1299.0
    assert stats.snapshot().recent.requests == {"200": 1, "422": 1}
    clock.seconds = 1300.0
    snapshot = stats.snapshot()
    assert snapshot.recent.requests == {"422": 1}
    assert (snapshot.recent.steps, snapshot.total.steps) == (0, 1)
    assert snapshot.recent.p50_seconds == pytest.approx(0.015)
    assert snapshot.total.requests == {"200": 1, "422": 1}
    assert snapshot.uptime_seconds == 300.0


def test_a_place_of_the_ring_that_is_used_again_holds_nothing_of_its_last_use(stats, clock):
    stats.answered(200, 0.001)
    clock.seconds = 1300.0
    stats.answered(200, 0.001)
    snapshot = stats.snapshot()
    assert [slot.requests for slot in snapshot.slots] == [0] * 59 + [1]
    assert snapshot.total.requests == {"200": 2}


def test_a_snapshot_does_not_change_with_what_comes_after_it(stats):
    before = stats.snapshot()
    stats.answered(200, 0.001)
    stats.scored([scored(1.0)])
    assert before == Stats("replica-1", Clock()).snapshot()


def test_replicas_have_names_of_their_own():
    assert Stats().snapshot().replica != Stats().snapshot().replica
