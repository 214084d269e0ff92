"""The one checkpoint that is being written while the loop goes on.

Owns `CheckpointWriter`: a thread that waits for the learner's files and completes the checkpoint. What goes wrong there
is raised in the loop, by the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from cluster.errors import CheckpointError

LAST_SECONDS = 60.0
"""How long a run that failed waits for its checkpoint."""


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
        failure = self._failure_within(self._seconds)
        if failure is not None:
            raise failure

    def leave(self, warn: Callable[[str], None]) -> None:
        """After a failure: a checkpoint that is almost complete may be so. What goes wrong with it is told to `warn`,
        for the failure before it is the one to raise."""
        failure = self._failure_within(min(self._seconds, LAST_SECONDS))
        if failure is not None:
            warn(f"the newest checkpoint is not complete: {failure}")

    def _failure_within(self, seconds: float) -> BaseException | None:
        """What went wrong with the checkpoint that is being written, or that it takes longer."""
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        wait([writing], seconds)
        if writing.done():
            return writing.exception()
        return CheckpointError(
            f"checkpoint: still being written after {seconds:.0f} s; look at the disk, and run the same command again: "
            "it resumes from the newest complete checkpoint"
        )
