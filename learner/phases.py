"""Where the time of an update goes. Owns `Phase` and `PhaseClock`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum


class Phase(Enum):
    """A part of an update; what is between them is next to nothing."""

    PACKING = "packing"
    """From credited trajectories to rows."""
    FORWARD = "forward"
    """Log-probabilities and values, those of the policy before the update and of the reference included."""
    LOSS = "loss"
    BACKWARD = "backward"
    STEP = "step"
    """Gradients exchanged, clipped and applied."""


class PhaseClock:
    """Adds up the seconds of each phase; phases do not overlap."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds = dict.fromkeys(Phase, 0.0)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """The time inside is the phase's."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[phase] += time.monotonic() - began

    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._began

    def seconds(self) -> Mapping[Phase, float]:
        """Until now, of every phase."""
        return dict(self._seconds)
