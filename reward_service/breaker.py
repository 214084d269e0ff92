"""The circuit breaker: stops asking a server that fails, and finds out carefully whether it is back.

Owns `CircuitBreaker`, which the client of the reward service and the judge's way to its model use. What a failure is,
its caller decides. Pure but for a lock; the clock is given, nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum


class CircuitState(StrEnum):
    """What the breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing, until the time is over."""
    HALF_OPEN = "half_open"
    """One request, whose end decides."""


class CircuitOpen(Exception):
    """A request may not be sent now."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        """Until the next may try; 0 while one is trying."""

    def __str__(self) -> str:
        return f"the circuit is open after failures in a row; the next request may try in {self.seconds:.1f} s"


class CircuitBreaker:
    """Closed until `failures` in a row; then open for `open_seconds`; then one request decides.

    A request asks `admit` and tells its end to `succeeded`, `failed` or `abandoned`, with the number that it got. Ends
    of requests that were admitted before the circuit last changed decide nothing. Threads and tasks may share it.
    """

    def __init__(
        self, failures: int = 3, open_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ValueError for settings with which it could never work."""
        if failures < 1 or open_seconds <= 0:
            raise ValueError(
                f"circuit breaker: found failures={failures} and open_seconds={open_seconds:g}; expected at least one "
                "failure and a time above 0"
            )
        self._lock = threading.Lock()
        self._limit = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._in_a_row = 0
        self._opened: float | None = None
        self._trying = False
        self._era = 0

    @property
    def state(self) -> CircuitState:
        """Now."""
        if self._opened is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self._seconds_left(self._opened) > 0 else CircuitState.HALF_OPEN

    def admit(self) -> int:
        """The number of the request's era.

        Raises:
            CircuitOpen: it may not be sent.
        """
        with self._lock:
            if self._opened is not None and (self._trying or self.state is CircuitState.OPEN):
                raise CircuitOpen(self._seconds_left(self._opened))
            self._trying = self._opened is not None
            return self._era

    def succeeded(self, era: int) -> None:
        """The server answered."""
        with self._lock:
            if era != self._era:
                return
            self._in_a_row = 0
            if self._trying:
                self._change(None)

    def failed(self, era: int) -> None:
        """It did not."""
        with self._lock:
            if era != self._era:
                return
            self._in_a_row += 1
            if self._trying or self._in_a_row >= self._limit:
                self._change(self._clock())

    def abandoned(self, era: int) -> None:
        """The request ended without a word about the server, or its end was told already."""
        with self._lock:
            if era == self._era:
                self._trying = False

    def _change(self, opened: float | None) -> None:
        self._opened = opened
        self._in_a_row = 0
        self._trying = False
        self._era += 1

    def _seconds_left(self, opened: float) -> float:
        return max(0.0, opened + self._open_seconds - self._clock())
