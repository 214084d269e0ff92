"""A clock that stands still until it is told to go on."""

from __future__ import annotations


class Clock:
    """Nanoseconds, as `time.monotonic_ns` counts them."""

    def __init__(self) -> None:
        self.nanoseconds = 1_000

    def __call__(self) -> int:
        return self.nanoseconds

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.nanoseconds += round(seconds * 1e9)
