"""The one checkpoint that is being written while the loop goes on.

Owns `CheckpointWriter`: a thread that waits for the learner's files and completes the checkpoint. What goes wrong there
is raised in the loop, by the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from cluster.errors import CheckpointError


class CheckpointWriter:
    """At most one checkpoint at a time. Not thread-safe: the loop owns it."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: longest wait for a checkpoint to be complete."""
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def start(self, begin: Callable[[], Callable[[], Path]]) -> None:
        """Wait for the checkpoint before this one, begin this one, and complete it in the thread."""
        self.finish()
        self._writing = self._thread.submit(begin())

    def check(self) -> None:
        """Raise what went wrong with a checkpoint that is over; returns at once."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is being written.

        Raises:
            NotEnoughResources: the disk is full.
            CheckpointError: it takes longer than the deadline.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        wait([writing], self._seconds)
        if not writing.done():
            raise CheckpointError(
                f"checkpoint: still being written after {self._seconds:.0f} s; look at the disk, and run the same "
                "command again: it resumes from the newest complete checkpoint"
            )
        writing.result()
