"""Watches one call: keeps its output, counts what it uses, stops it at its budget.

Consumes the descriptors and the process of the call; produces `Ended`. The verdict on time is CPU seconds. The wall
clock is a backstop for code that sleeps, and the time that a process spent waiting for a CPU does not count against it,
so that a busy machine changes no verdict; code that could not get a CPU for very long was starved, which is our
failure.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import time
from collections.abc import Callable

from tool_sandbox.isolation.inside.frames import BrokenFrame, FrameReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TICK_SECONDS = 0.02
CHUNK_BYTES = 65536
REPORT_BYTES = 65536
CPU, WALL, MEMORY, FILES, STARVED, BROKEN = "cpu", "wall", "memory", "files", "starved", "broken"
"""Why a call was stopped."""
CAGED = "caged"
"""The first report of every process that runs the model's code."""
_PAGE_BYTES = resource.getpagesize()


class Ended:
    """How a call ended. Mutable while the call runs."""

    def __init__(self) -> None:
        self.stopped: str | None = None
        """Which budget stopped it; None where it ended by itself."""
        self.caged = False
        """Whether the process was locked down; it said so before any of the model's code ran."""
        self.report: dict[str, Any] | None = None
        """What the process said of itself, which may be forged."""
        self.exit_status: int | None = None
        """As `os.waitstatus_to_exitcode` gives it; None where the process lives on."""
        self.stdout, self.stderr = bytearray(), bytearray()
        self.truncated = False
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0


class Pipes:
    """The ends that the supervisor reads."""

    def __init__(self, stdout: int, stderr: int, report: int) -> None:
        self.stdout, self.stderr, self.report = stdout, stderr, report


class Baseline:
    """What was used before a call, and when it began. Take it before anything of the call can run: a process that is
    forked first may be over before it is looked at, and would have cost nothing."""

    def __init__(self, processes: list[int]) -> None:
        """`processes`: those of the session that live already."""
        self.started, self.reaped = time.monotonic(), _reaped_seconds()
        self.used, self.waited = _cpu_seconds(processes), _waiting_seconds(processes)


class Watch:
    """Follows one call to its end. Used once."""

    def __init__(
        self,
        main: int,
        pipes: Pipes,
        limits: dict[str, Any],
        processes: Callable[[], list[int]],
        folder: str,
        disk: Callable[[str], tuple[int, int]],
        before: Baseline,
    ) -> None:
        """`processes`: the live processes of the call; `folder`: where it may write; `disk`: files and bytes there."""
        self._main, self._pipes, self._limits, self._folder = main, pipes, limits, folder
        self._processes, self._disk = processes, disk
        self._reports = FrameReader(REPORT_BYTES)
        self._before = before
        self.ended = Ended()

    def follow(self, *, until_report: bool) -> Ended:
        """Read until the process is gone, or with `until_report` has reported; or until a budget is used up."""
        pidfd = os.pidfd_open(self._main)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ, None)
                for pipe, keep in self._readers():
                    selector.register(pipe, selectors.EVENT_READ, keep)
                self._loop(selector, until_report)
        finally:
            os.close(pidfd)
        return self.ended

    def settle(self) -> None:
        """Take what is left in the pipes, and the final figures, when the processes of the call are gone or idle."""
        for pipe, keep in self._readers():
            while piece := _available(pipe):
                keep(piece)
        self.ended.cpu_seconds = self.cpu_seconds()
        self.ended.wall_seconds = time.monotonic() - self._before.started

    def cpu_seconds(self) -> float:
        """Used so far by the call, with all that it started."""
        used = _cpu_seconds(self._processes()) - self._before.used + _reaped_seconds() - self._before.reaped
        # The two clocks differ by a microsecond; a call never used less than nothing.
        return max(0.0, used)

    def _readers(self) -> tuple[tuple[int, Callable[[bytes], None]], ...]:
        pipes = self._pipes
        return (pipes.stdout, self._keep_stdout), (pipes.stderr, self._keep_stderr), (pipes.report, self._keep_report)

    def _loop(self, selector: selectors.BaseSelector, until_report: bool) -> None:
        while True:
            gone = False
            for key, _ in selector.select(TICK_SECONDS):
                if key.data is None:
                    gone = True
                elif piece := os.read(key.fd, CHUNK_BYTES):
                    key.data(piece)
                else:
                    selector.unregister(key.fd)
            if gone or self.ended.stopped or (until_report and self.ended.report is not None):
                return
            self.ended.stopped = self._exceeded()
            if self.ended.stopped:
                return

    def _exceeded(self) -> str | None:
        if time.monotonic() - self._before.started < TICK_SECONDS:
            return None
        live = self._processes()
        memory = sum(_resident_bytes(pid) for pid in live)
        if self.cpu_seconds() >= self._limits["cpu_seconds"]:
            return CPU
        if memory > self._limits["memory_bytes"]:
            return MEMORY
        files, size = self._disk(self._folder)
        if files > self._limits["files"] or size > self._limits["tmp_bytes"]:
            return FILES
        return self._too_late(live)

    def _too_late(self, live: list[int]) -> str | None:
        elapsed = time.monotonic() - self._before.started
        waited = max(0.0, _waiting_seconds(live) - self._before.waited)
        if elapsed - waited >= self._limits["wall_seconds"]:
            return WALL
        return STARVED if elapsed >= self._limits["starved_seconds"] else None

    def _keep_stdout(self, piece: bytes) -> None:
        room = self._limits["output_bytes"] - len(self.ended.stdout)
        self.ended.stdout += piece[: max(0, room)]
        self.ended.truncated |= len(piece) > room

    def _keep_stderr(self, piece: bytes) -> None:
        self.ended.stderr = (self.ended.stderr + piece)[-self._limits["output_bytes"] :]

    def _keep_report(self, piece: bytes) -> None:
        self._reports.feed(piece)
        try:
            while (report := self._reports.next()) is not None:
                self._take(report)
        except BrokenFrame:
            self.ended.stopped = BROKEN

    def _take(self, report: Any) -> None:
        if report == CAGED:
            self.ended.caged = True
        elif isinstance(report, dict):
            self.ended.report = report


def interrupt(pid: int) -> None:
    """Ask the code to stop, as Ctrl-C does."""
    os.kill(pid, signal.SIGINT)


def _available(pipe: int) -> bytes:
    try:
        return os.read(pipe, CHUNK_BYTES)
    except BlockingIOError:
        return b""


def _reaped_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_seconds(processes: list[int]) -> float:
    """Of live processes and of the children that they waited for."""
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(sum(map(int, _stat(pid)[13:15])) / ticks + _clock(pid) for pid in processes)


def _clock(pid: int) -> float:
    """CPU seconds of a process to the nanosecond: the clock of clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _waiting_seconds(processes: list[int]) -> float:
    """How long the processes were ready and had no CPU (/proc/PID/schedstat, second figure, nanoseconds)."""
    return sum(int((_read(f"/proc/{pid}/schedstat").split() or [b"0", b"0"])[1]) for pid in processes) / 1e9


def _resident_bytes(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES if fields else 0


def _stat(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the third on minus the name; zeros for a process that is gone."""
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(b")")[2].split() or [b"0"] * 50


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
