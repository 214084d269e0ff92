"""Being asked to stop. Owns the signal handlers: of a command, which ends what it started, and of a run, where the
first signal sets a flag and the second ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cluster.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def leave_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit` does, so that what it started is ended with it."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)


class StopFlag:
    """Set by SIGTERM or Ctrl-C; asked between and inside phases."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` if the run was asked to stop."""
        if self.is_set:
            raise Stopped("stopped on request; run the same command again to continue from the last finished iteration")


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM and SIGINT into a flag. Enter after `ray.init`, which installs handlers of its own."""
    flag = StopFlag()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if flag.is_set:
            os._exit(128 + number)
        flag.set()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
