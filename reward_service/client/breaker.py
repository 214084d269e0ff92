"""A circuit breaker: after some failures in a row nobody asks any more, until one trial shows that it pays again.

Owns `CircuitBreaker`. What a failure is, its caller decides. Pure but for a lock; the clock is given.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum


class Circuit(StrEnum):
    """What the breaker does with the next request."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it."""
    HALF_OPEN = "half_open"
    """Lets one through as a trial, and refuses the others until it has ended."""


class CircuitBreaker:
    """Opens after `failures` in a row and asks for a trial after `open_seconds`. Threads and tasks may share it."""

    def __init__(
        self, failures: int = 3, open_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if failures < 1 or open_seconds <= 0:
            raise ValueError(
                f"circuit breaker: found failures={failures} and open_seconds={open_seconds:g}; expected at least one "
                "failure and a time above 0"
            )
        self._failures = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._opened_at: float | None = None
        self._on_trial = False

    @property
    def circuit(self) -> Circuit:
        """What it does now."""
        if self._opened_at is None:
            return Circuit.CLOSED
        return Circuit.HALF_OPEN if self._seconds_left() <= 0 else Circuit.OPEN

    def admit(self) -> float | None:
        """None lets the request through; it must end in `succeeded`, `failed` or `abandoned`.

        Seconds until the next trial otherwise; 0 where one is under way.
        """
        with self._lock:
            match self.circuit:
                case Circuit.CLOSED:
                    return None
                case Circuit.OPEN:
                    return self._seconds_left()
                case Circuit.HALF_OPEN:
                    if self._on_trial:
                        return 0.0
                    self._on_trial = True
                    return None

    def succeeded(self) -> None:
        """The request was answered."""
        with self._lock:
            self._failed = 0
            self._opened_at = None
            self._on_trial = False

    def failed(self) -> None:
        """The request was not answered. A failed trial opens the circuit for the same time again."""
        with self._lock:
            self._failed += 1
            self._on_trial = False
            if self._failed >= self._failures:
                self._opened_at = self._clock()

    def abandoned(self) -> None:
        """The request was given up before it said anything."""
        with self._lock:
            self._on_trial = False

    def _seconds_left(self) -> float:
        opened = self._clock() if self._opened_at is None else self._opened_at
        return opened + self._open_seconds - self._clock()
