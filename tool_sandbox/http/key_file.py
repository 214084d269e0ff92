"""Keys that change while a service runs: a keys file is read again when it is another one.

Owns the watch of one process. A broken file changes nothing: the keys of before stay, and the log says so once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.keys import ApiKeys

LOOK_NANOSECONDS = 1_000_000_000
"""Between two looks at the file: the longest that a removed key goes on working."""

_logger = logging.getLogger(__name__)


class WatchedKeys:
    """The keys that a process knows now. For one event loop."""

    def __init__(self, keys: ApiKeys, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` counts nanoseconds. Raises `InvalidKeys` where the file of `keys` cannot be used."""
        self._given = keys
        self._clock = clock
        self._next_look = clock() + LOOK_NANOSECONDS
        # Before the file is read: what changes in between is then found at the next look.
        self._seen = None if keys.file is None else _identity(keys.file)
        self._known = keys.resolved()

    def now(self) -> ApiKeys:
        """All keys, those of the file among them. Looks at the file once a second at most."""
        if self._given.file is not None and self._clock() >= self._next_look:
            self._next_look = self._clock() + LOOK_NANOSECONDS
            self._look(self._given.file)
        return self._known

    def _look(self, file: Path) -> None:
        found = _identity(file)
        if found == self._seen:
            return
        self._seen = found
        try:
            self._known = self._given.resolved()
        except InvalidKeys as error:
            _logger.error("%s; the %d keys of before stay in use", error, len(self._known.entries))
        else:
            _logger.info("API keys: %s has changed, %d keys from now on", file, len(self._known.entries))


def _identity(file: Path) -> tuple[int, ...] | None:
    """What tells a file from another one in its place; None where there is none that we may see."""
    try:
        found = file.stat()
    except OSError:
        return None
    # The time of the last change of the inode too: a file that can be read at last has the old time and size.
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
