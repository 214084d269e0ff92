"""How long the store waits, and how long it keeps. Owns `Timing`; nothing in the store waits without one of these."""

from __future__ import annotations

from dataclasses import dataclass

_DAY_SECONDS = 24 * 3600.0
_RENEWALS = 3
"""Of a lease, in the time that it lasts."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of the store; the defaults are for production, tests shorten them."""

    lease_seconds: float = 30.0
    """A claim that was not renewed for so long may be taken over. It is renewed three times as often."""
    request_lease_seconds: float = 10.0
    """As `lease_seconds`, for a request with an `Idempotency-Key`: its caller waits for a replica that was lost. Long
    enough for a replica that lives: a third until it renews, and all of `lock_seconds` until it may write."""
    lock_seconds: float = 5.0
    """Longest wait for a lock of the database, and for a connection to it."""
    operation_seconds: float = 15.0
    """Longest wait for one operation, its time in the queue of threads included."""
    keep_seconds: float = _DAY_SECONDS
    """Life of an `Idempotency-Key` and of a batch."""
    attended_seconds: float = 3600.0
    """How long batches wait for a service that has their reward version, after the last one was there: longer than a
    restart, a new release or a broken one takes. Any other service may answer for them after that."""
    sweep_seconds: float = 3600.0
    """Between two removals of what has expired."""

    @property
    def renewal_seconds(self) -> float:
        """Between two renewals of a lease."""
        return self.lease_seconds / _RENEWALS

    @property
    def request_renewal_seconds(self) -> float:
        """Between two renewals of a request's lease."""
        return self.request_lease_seconds / _RENEWALS
