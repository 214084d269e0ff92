"""How much a key may do in a minute: token buckets on whole numbers, so that the time to wait is exact.

Owns `Quotas`, the buckets of one process. Pure; the clock is given.
"""

from __future__ import annotations

from collections.abc import Callable

from tool_sandbox.http.keys import Quota

_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND


class Bucket:
    """Fills by `per_minute` tokens a minute, and holds as many. Times are nanoseconds."""

    def __init__(self, per_minute: int, now: int) -> None:
        self._per_minute = per_minute
        # One token is _MINUTE of these, since each nanosecond brings `per_minute` of them.
        self._level = per_minute * _MINUTE
        self._at = now

    def take(self, tokens: int, now: int) -> int:
        """Take the tokens and return 0; else take none, and return for how many whole seconds there are too few.

        More than the bucket holds is taken from a full one, which then owes the rest: whoever asks for much at once
        waits longer afterwards, and is not refused for ever.
        """
        self._level = min(self._per_minute * _MINUTE, self._level + self._per_minute * (now - self._at))
        self._at = now
        missing = min(tokens, self._per_minute) * _MINUTE - self._level
        if missing > 0:
            return -(-missing // (self._per_minute * _SECOND))
        self._level -= tokens * _MINUTE
        return 0


class Quotas:
    """The buckets of all keys in this process. For one event loop."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` counts nanoseconds."""
        self._clock = clock
        self._buckets: dict[tuple[str, Quota], Bucket] = {}

    def take(self, name: str, quota: Quota, amount: int) -> int:
        """Charge the key `name`; seconds to wait, 0 where it was charged."""
        now = self._clock()
        # By the quota too: a key whose quota was changed begins with a full bucket.
        bucket = self._buckets.get((name, quota))
        if bucket is None:
            bucket = self._buckets[name, quota] = Bucket(quota.per_minute, now)
        return bucket.take(amount, now)
