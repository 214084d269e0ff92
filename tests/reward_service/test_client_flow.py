"""What the client does next, without doing it: its flows are played by hand, on a clock that stands still."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from reward_service.breaker import CircuitBreaker
from reward_service.client.exchange import Exchange, Pause, Send
from reward_service.client.retries import asked_seconds, pause_seconds
from reward_service.errors import RewardUnavailable
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import item

NOW = datetime(2026, 11, 24, 8, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "Tue, 24 Nov 2026 08:01:30 GMT"}, 90.0),
        ({"retry-after": "Tuesday, 24-Nov-26 08:01:30 GMT"}, 90.0),
        ({"retry-after": "Tue Nov 24 08:01:30 2026"}, 90.0),
        # The service's clock is five minutes late; what counts is the time between its own two dates.
        ({"retry-after": "Tue, 24 Nov 2026 07:55:20 GMT", "date": "Tue, 24 Nov 2026 07:55:00 GMT"}, 20.0),
        ({"retry-after": "Tue, 24 Nov 2026 07:00:00 GMT"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Tue, 99 Nov 99999999999999999999 08:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers, seconds):
    assert asked_seconds(headers, NOW) == seconds


@pytest.mark.parametrize(("attempt", "shortest", "longest"), [(0, 0.05, 0.1), (3, 0.4, 0.8), (20, 2.5, 5.0)])
def test_pauses_double_up_to_five_seconds_and_are_never_the_same_for_all(attempt, shortest, longest):
    pauses = [pause_seconds(httpx.ConnectError("refused"), attempt, NOW) for _ in range(50)]
    assert shortest <= min(pauses) < max(pauses) <= longest


def test_a_random_part_comes_on_top_of_what_the_service_asks_for():
    pauses = [pause_seconds(httpx.Response(429, headers={"Retry-After": "3"}), 0, NOW) for _ in range(50)]
    assert 3.05 <= min(pauses) < max(pauses) <= 3.1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def exchange(clock: Clock, retries: int = 2) -> Exchange:
    return Exchange("http://rewards", 10.0, retries, None, CircuitBreaker(clock=clock), clock)


def test_a_flow_sends_pauses_and_sends_the_same_within_what_is_left_of_the_deadline():
    clock = Clock()
    flow = exchange(clock).score(ScoreRequest(trajectories=(item(),)))
    first = flow.send(None)
    assert isinstance(first, Send)
    assert first.seconds == 10.0
    clock.now += 4.0
    pause = flow.send(httpx.Response(503, headers={"Retry-After": "2"}))
    assert isinstance(pause, Pause)
    assert 2.0 <= pause.seconds <= 2.1
    clock.now += 2.5
    second = flow.send(None)
    assert isinstance(second, Send)
    assert (second.call, second.seconds) == (first.call, 3.5)


def test_a_try_that_is_still_at_work_is_asked_for_as_often_as_the_service_says_until_the_deadline():
    clock = Clock()
    flow = exchange(clock, retries=0).score(ScoreRequest(trajectories=(item(),)))
    pauses: list[float] = []

    def play() -> None:
        effect = flow.send(None)
        for _ in range(20):
            assert isinstance(effect, Send)
            pause = flow.send(httpx.Response(409, headers={"Retry-After": "2"}))
            assert isinstance(pause, Pause)
            pauses.append(pause.seconds)
            clock.now += 2.0
            effect = flow.send(None)

    # Of 10 s; the pause that would begin at 8 s takes 2 s and a little.
    with pytest.raises(RewardUnavailable, match=r"after 5 attempts \(deadline of 10 s; last: status 409\)"):
        play()
    assert len(pauses) == 4
    assert 2.05 <= min(pauses) < max(pauses) <= 2.1


def test_one_deadline_holds_for_all_tries():
    clock = Clock()
    flow = exchange(clock, retries=100).score(ScoreRequest(trajectories=(item(),)))

    def play() -> None:
        for _ in range(20):
            effect = flow.send(None)
            while isinstance(effect, Send):
                clock.now += 3.0
                effect = flow.send(httpx.ReadTimeout("slow"))

    with pytest.raises(RewardUnavailable, match=r"after 4 attempts \(deadline of 10 s; last: ReadTimeout: slow\)"):
        play()
