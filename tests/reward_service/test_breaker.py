"""The circuit breaker, by a clock that stands still until it is moved."""

from __future__ import annotations

import pytest

from reward_service.breaker import CircuitBreaker, CircuitOpen, CircuitState


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(failures=3, open_seconds=30.0, clock=clock)


def fail(breaker, times):
    for _ in range(times):
        breaker.failed(breaker.admit())


def test_failures_in_a_row_open_the_circuit(breaker):
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker, 1)
    assert breaker.state is CircuitState.OPEN
    with pytest.raises(CircuitOpen, match=r"may try in 30\.0 s"):
        breaker.admit()


def test_a_success_between_failures_starts_the_count_again(breaker):
    fail(breaker, 2)
    breaker.succeeded(breaker.admit())
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED


def test_after_its_time_one_request_may_try_and_no_other(breaker, clock):
    fail(breaker, 3)
    clock.now += 29.5
    with pytest.raises(CircuitOpen) as refused:
        breaker.admit()
    assert refused.value.seconds == 0.5
    clock.now += 0.5
    assert breaker.state is CircuitState.HALF_OPEN
    breaker.admit()
    with pytest.raises(CircuitOpen):
        breaker.admit()


def test_the_trial_closes_the_circuit_or_opens_it_for_as_long_again(breaker, clock):
    fail(breaker, 3)
    clock.now += 30
    fail(breaker, 1)
    assert breaker.state is CircuitState.OPEN
    clock.now += 30
    breaker.succeeded(breaker.admit())
    assert breaker.state is CircuitState.CLOSED
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED


def test_an_abandoned_trial_lets_the_next_one_try(breaker, clock):
    fail(breaker, 3)
    clock.now += 30
    breaker.abandoned(breaker.admit())
    breaker.succeeded(breaker.admit())
    assert breaker.state is CircuitState.CLOSED


def test_requests_from_before_the_circuit_opened_decide_nothing_afterwards(breaker, clock):
    late_success, late_failure = breaker.admit(), breaker.admit()
    fail(breaker, 3)
    breaker.succeeded(late_success)
    assert breaker.state is CircuitState.OPEN
    clock.now += 30
    trial = breaker.admit()
    breaker.failed(late_failure)
    breaker.abandoned(late_failure)
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.succeeded(trial)
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("settings", [{"failures": 0}, {"open_seconds": 0}])
def test_a_breaker_that_could_never_work_is_refused(settings):
    with pytest.raises(ValueError, match="circuit breaker: found"):
        CircuitBreaker(**settings)
