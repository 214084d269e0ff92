"""What the service has done so far: counts, latencies and the last five minutes.

Owns `Stats`, which one event loop writes and reads, so it needs no lock. Consumes answers and results as they leave;
produces a `StatsSnapshot`. Knows nothing of HTTP; the clock comes from outside.
"""

from __future__ import annotations

import bisect
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence

from reward_service.judge.judgement import Spent
from reward_service.stats_wire import (
    BOUNDS_SECONDS,
    OUTCOMES,
    SLOT_SECONDS,
    SLOTS,
    JudgeTraffic,
    Outcome,
    Slot,
    StatsSnapshot,
    Traffic,
)
from reward_service.wire import ItemResult, ScoredItem


class Stats:
    """The recorder of one replica."""

    def __init__(self, replica: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back; `replica` is a random name unless given."""
        self.now = clock
        self._replica = replica or secrets.token_hex(4)
        self._started = clock()
        self._total = _Tally()
        self._ring = [(-1, _Tally()) for _ in range(SLOTS)]

    def answered(self, status: int, seconds: float) -> None:
        """One request was answered with an HTTP status after so many seconds."""
        for tally in self._current():
            tally.requests[str(status)] += 1
            tally.latency_counts[bisect.bisect_left(BOUNDS_SECONDS, seconds)] += 1
            tally.latency_sum_seconds += seconds

    def scored(self, results: Sequence[ItemResult]) -> None:
        """These trajectories have their result, whoever asked for it and however long ago."""
        for tally in self._current():
            for result in results:
                tally.trajectories[_outcome(result)] += 1
                tally.steps += len(result.steps)
                tally.abstained_steps += sum(step.reward is None for step in result.steps)

    def judged(self, spent: Spent) -> None:
        """A judge cast votes."""
        for tally in self._current():
            tally.judge += spent

    def snapshot(self) -> StatsSnapshot:
        """All figures as they are now."""
        last = self._slot_number()
        by_number = dict(self._ring)
        tallies = [by_number.get(number, _Tally()) for number in range(last - SLOTS + 1, last + 1)]
        recent = _Tally()
        for tally in tallies:
            recent.add(tally)
        return StatsSnapshot(
            replica=self._replica,
            uptime_seconds=self.now() - self._started,
            total=self._total.traffic(),
            recent=recent.traffic(),
            slots=tuple(tally.slot() for tally in tallies),
        )

    def _slot_number(self) -> int:
        return int((self.now() - self._started) // SLOT_SECONDS)

    def _current(self) -> tuple[_Tally, _Tally]:
        """The two tallies that an event of this moment belongs to."""
        number = self._slot_number()
        place = number % SLOTS
        if self._ring[place][0] != number:
            self._ring[place] = (number, _Tally())
        return self._total, self._ring[place][1]


class _Tally:
    """Counts over some time; written by `Stats` only."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.trajectories: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.steps = 0
        self.abstained_steps = 0
        self.latency_counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.latency_sum_seconds = 0.0
        self.judge = Spent()

    def add(self, other: _Tally) -> None:
        self.requests.update(other.requests)
        for outcome in OUTCOMES:
            self.trajectories[outcome] += other.trajectories[outcome]
        self.steps += other.steps
        self.abstained_steps += other.abstained_steps
        self.latency_counts = [a + b for a, b in zip(self.latency_counts, other.latency_counts, strict=True)]
        self.latency_sum_seconds += other.latency_sum_seconds
        self.judge += other.judge

    def slot(self) -> Slot:
        return Slot(requests=self.requests.total(), trajectories=sum(self.trajectories.values()), steps=self.steps)

    def traffic(self) -> Traffic:
        return Traffic(
            requests=dict(sorted(self.requests.items())),
            trajectories=dict(self.trajectories),
            steps=self.steps,
            abstained_steps=self.abstained_steps,
            latency_counts=tuple(self.latency_counts),
            latency_sum_seconds=self.latency_sum_seconds,
            judge=_judge_traffic(self.judge),
            p50_seconds=quantile(0.50, self.latency_counts, BOUNDS_SECONDS),
            p99_seconds=quantile(0.99, self.latency_counts, BOUNDS_SECONDS),
        )


def _judge_traffic(spent: Spent) -> JudgeTraffic:
    return JudgeTraffic(
        votes=spent.votes,
        lost_votes=spent.lost_votes,
        requests=spent.usage.requests,
        prompt_tokens=spent.usage.prompt_tokens,
        completion_tokens=spent.usage.completion_tokens,
        cost=spent.cost,
    )


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """The value below which `share` of the observations lie; None where there are none.

    `counts[i]` observations lie in (bounds[i−1], bounds[i]], the last ones beyond all bounds. Inside a bucket they are
    taken as evenly spread: lower + (upper − lower)·(rank − below)/count, with rank = share·n, as Prometheus does.
    Beyond the last bound nothing is known, and the answer is that bound.
    """
    rank = share * sum(counts)
    below, lower = 0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return lower if sum(counts) else None


def _outcome(result: ItemResult) -> Outcome:
    return "ok" if isinstance(result, ScoredItem) else result.error.kind
