"""One sandbox on this machine: starts it at the wanted level, talks to it with deadlines, ends it with all its content.

Owns the command lines and the process. Knows nothing of tools or tasks. At the level `namespaces` the sandbox is
bubblewrap: own user, process, network, mount and IPC namespaces, no capabilities, no environment, a read-only /usr and
a small /tmp. At `landlock` it is a bare process. At both, the zygote inside (see `inside`) locks each of its children
down.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from tool_sandbox.config import MIB, SandboxConfig
from tool_sandbox.errors import IsolationUnavailable, SandboxUnavailable
from tool_sandbox.isolation.command import PYTHON, as_user, bubblewrap, memory_file
from tool_sandbox.isolation.inside.frames import BrokenFrame, FrameReader, frame
from tool_sandbox.isolation.inside.trees import empty
from tool_sandbox.isolation.seccomp import assemble
from tool_sandbox.isolation.syscalls import CODE, LONE_CODE, SUPERVISOR
from tool_sandbox.tools import IsolationLevel

START_SECONDS = 30.0
REPLY_BYTES = 8 * MIB
GRACE_SECONDS = 5.0
"""Beyond the longest that a call may take: after that the sandbox itself is taken for dead."""
_INSIDE = "tool_sandbox.isolation.inside"
_MODULES = ("", "frames", "kernel", "trees", "supervision", "code", "lockdown", "zygote")
"""In the order in which they need each other; the first is the package itself."""
_CHUNK_BYTES = 65536
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""Sets have one order, so that observations repeat."""


class Worker:
    """A running sandbox. Not thread-safe: one request at a time."""

    def __init__(self, config: SandboxConfig, level: IsolationLevel, preload: Sequence[str] = ()) -> None:
        """Start a sandbox and wait until it answers. `preload`: modules that calls will find loaded.

        Raises:
            IsolationUnavailable: a program or a kernel feature is missing, or the sandbox did not start.
        """
        self._config = config
        self._folder = None if level is IsolationLevel.NAMESPACES else _private_folder(config)
        self._errors = os.memfd_create("sandbox-errors")
        self._process = self._spawned(level)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._reader = FrameReader(REPLY_BYTES)
        try:
            self._send(_setup(config, level, self._folder, preload), time.monotonic() + START_SECONDS)
            self.ready = self.request({"kind": "ready"}, START_SECONDS)
        except SandboxUnavailable as error:
            self.close()
            raise IsolationUnavailable(f"sandbox: it did not start at level {level.value!r}: {error}") from error

    @property
    def pid(self) -> int:
        """Of the outermost process."""
        return self._process.pid

    def request(self, message: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """Send one request and wait for its reply; None waits as long as the budgets allow a call to take.

        Raises:
            SandboxUnavailable: the sandbox is gone, silent, or does not speak the protocol. Close it.
        """
        deadline = time.monotonic() + (self._config.starved_seconds + GRACE_SECONDS if seconds is None else seconds)
        self._send(message, deadline)
        while (reply := self._next_reply()) is None:
            self._reader.feed(self._piece(deadline))
        return reply

    def close(self) -> None:
        """End the sandbox with everything in it. Safe to call twice."""
        if self._process.returncode is not None:
            return
        # Process 1 of the namespace dies with bubblewrap, and everything else with process 1.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(START_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._clean_up()

    def _clean_up(self) -> None:
        os.close(self._errors)
        if self._folder is not None:
            empty(self._folder)
            os.rmdir(self._folder)

    def _spawned(self, level: IsolationLevel) -> subprocess.Popen[bytes]:
        spawning = _spawner(os.getpid()).submit(self._start, level)
        try:
            return spawning.result(START_SECONDS)
        except (OSError, TimeoutError) as error:
            # It may still start, and until then it needs what is cleaned up here.
            spawning.add_done_callback(self._abandon)
            raise IsolationUnavailable(
                f"sandbox: its process did not start at level {level.value!r}: {error!r}"
            ) from error

    def _abandon(self, spawning: Future[subprocess.Popen[bytes]]) -> None:
        if spawning.exception() is None:
            spawning.result().kill()
            spawning.result().wait(START_SECONDS)
        self._clean_up()

    def _start(self, level: IsolationLevel) -> subprocess.Popen[bytes]:
        boot = [PYTHON, "-s", "-S", "-P", "-B", "-c", _boot_source()]
        with memory_file(assemble(SUPERVISOR)) as program:
            outer = _outer(self._config, program.fileno()) if level is IsolationLevel.NAMESPACES else []
            return subprocess.Popen(
                [*as_user(self._config), *outer, *boot],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                # Process 1 of the sandbox keeps its original environment readable in /proc, whatever bwrap clears.
                env={} if outer else _ENVIRONMENT,
                cwd="/",
                pass_fds=(program.fileno(),) if outer else (),
                start_new_session=True,
            )

    def _send(self, message: Any, deadline: float) -> None:
        rest = memoryview(frame(message))
        while rest:
            self._wait(self._requests, selectors.EVENT_WRITE, deadline)
            try:
                rest = rest[os.write(self._requests, rest) :]
            except (BrokenPipeError, ConnectionError) as error:
                raise SandboxUnavailable(f"sandbox: it is gone; {self._last_words()}") from error

    def _next_reply(self) -> Any | None:
        try:
            return self._reader.next()
        except BrokenFrame as error:
            raise SandboxUnavailable(f"sandbox: it answered with {error}") from error

    def _piece(self, deadline: float) -> bytes:
        self._wait(self._replies, selectors.EVENT_READ, deadline)
        piece = os.read(self._replies, _CHUNK_BYTES)
        if not piece:
            raise SandboxUnavailable(f"sandbox: it ended; {self._last_words()}")
        return piece

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise SandboxUnavailable(f"sandbox: no answer before the deadline; {self._last_words()}")

    def _last_words(self) -> str:
        text = os.pread(self._errors, 4096, max(0, os.fstat(self._errors).st_size - 4096)).decode(errors="replace")
        return f"its last words were {text.strip()!r}" if text.strip() else "it said nothing"


def _setup(config: SandboxConfig, level: IsolationLevel, folder: str | None, preload: Sequence[str]) -> dict[str, Any]:
    own = level is IsolationLevel.NAMESPACES
    settings = {
        "limits": config.limits(own_namespaces=own),
        "filter": assemble(CODE if own else LONE_CODE).hex(),
        "folder": folder or "/tmp",
        "preload": list(preload),
    }
    return {"modules": _sources(), "settings": settings}


def _outer(config: SandboxConfig, filter_fd: int) -> list[str]:
    return bubblewrap(config, filter_fd, environment=_ENVIRONMENT, first=True)


def _private_folder(config: SandboxConfig) -> str:
    folder = tempfile.mkdtemp(prefix="steptool-sandbox-")
    if os.geteuid() == 0:
        os.chown(folder, config.uid, config.uid)
    return folder


@cache
def _spawner(_process: int) -> ThreadPoolExecutor:
    """The thread that starts all sandboxes of a process (threads do not follow a fork).

    A sandbox dies with the thread that started it (PR_SET_PDEATHSIG). This one lives as long as the process, whose end,
    however sudden, then ends every sandbox.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="sandbox-spawner")


@cache
def _sources() -> tuple[tuple[str, str], ...]:
    folder = Path(__file__).parent / "inside"
    named = [(f"{_INSIDE}.{name}".rstrip("."), f"{name or '__init__'}.py") for name in _MODULES]
    return tuple((module, (folder / file).read_text(encoding="utf-8")) for module, file in named)


@cache
def _boot_source() -> str:
    return (Path(__file__).parent / "inside" / "boot.py").read_text(encoding="utf-8")
