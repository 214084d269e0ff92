"""Runs a program in a fresh bubblewrap sandbox and reports how it ended.

Owns the command line of the sandbox, the deadline, and the reading of output. Knows nothing of tools or tasks. One
sandbox per run: own user, process, network, mount and IPC namespaces, no capabilities, no environment, a
read-only /usr, a small /tmp, a system-call filter and resource limits set inside.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tool_sandbox.config import MIB, SandboxConfig
from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.seccomp import sandbox_filter

PYTHON = "/usr/bin/python3"
"""The system's interpreter: the one that runs this project may live where the sandbox's user cannot read."""
PACKAGES = {"bwrap": "bubblewrap", "prlimit": "util-linux", "setpriv": "util-linux", PYTHON: "python3"}
"""Program → Debian package."""
SHARED_MEMORY_BYTES = 16 * MIB
_CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Ended:
    """How a sandboxed program ended."""

    exit_code: int | None
    """128 + signal where a signal ended it; None where it never ran or was stopped by the deadline."""
    stdout: bytes
    """At most `output_bytes`."""
    stderr: bytes
    """The end of it, at most `output_bytes`."""
    truncated: bool
    """Whether standard output was cut."""
    deadline_passed: bool
    cpu_seconds: float
    """Of the launcher alone: the sandbox's first process is not waited for, so the kernel does not add its time."""
    wall_seconds: float


class Launcher:
    """Starts sandboxes. Holds no process; safe to use from many threads."""

    def __init__(self, config: SandboxConfig) -> None:
        """Raises `IsolationUnavailable` where a program or a system-call table is missing."""
        self._config = config
        self._programs = find_programs()
        self._filter = sandbox_filter()

    def run(self, arguments: Sequence[str], stdin: bytes) -> Ended:
        """Run the system's Python with `arguments`; blocks until it ends or the wall-clock deadline passes."""
        started = time.monotonic()
        filter_fd, stdin_fd = readable(self._filter), readable(stdin)
        status_read, status_write = os.pipe()
        try:
            process = subprocess.Popen(
                self._command(filter_fd, status_write, arguments),
                stdin=stdin_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Process 1 of the sandbox keeps its original environment readable in /proc, whatever bwrap clears.
                env={},
                cwd="/",
                pass_fds=(filter_fd, status_write),
                start_new_session=True,
            )
        finally:
            for descriptor in (filter_fd, stdin_fd, status_write):
                os.close(descriptor)
        with os.fdopen(status_read, "rb") as status, process:
            watch = _Watch(process, self._config, started + self._config.wall_seconds)
            watch.follow()
            exit_code = _exit_code(status.read())
        return Ended(
            exit_code=exit_code,
            stdout=bytes(watch.stdout),
            stderr=bytes(watch.stderr),
            truncated=watch.truncated,
            deadline_passed=watch.deadline_passed,
            cpu_seconds=watch.cpu_seconds,
            wall_seconds=time.monotonic() - started,
        )

    def _command(self, filter_fd: int, status_fd: int, arguments: Sequence[str]) -> list[str]:
        program = (PYTHON, "-I", "-S", "-u", *arguments)
        return sandbox_command(self._config, self._programs, program, filter_fd, status_fd=status_fd)


def sandbox_command(
    limits: SandboxConfig,
    programs: Mapping[str, str],
    program: Sequence[str],
    filter_fd: int,
    *,
    status_fd: int | None = None,
    read_only: Mapping[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line that runs `program` in a sandbox without a network; to be started with an empty environment.

    `programs` are those of `find_programs`. `filter_fd` and `status_fd` (where bwrap reports) must be inherited. Each
    folder of `read_only` can be read inside at its given place; the user that bwrap runs as must be able to read it.
    `environment` is all that the program sees.
    """
    as_user = (f"--reuid={limits.uid}", f"--regid={limits.uid}", "--clear-groups", "--")
    binds = [part for folder, place in (read_only or {}).items() for part in ("--ro-bind", str(folder), place)]
    variables = [part for name, value in (environment or {}).items() for part in ("--setenv", name, value)]
    return [
        *((programs["setpriv"], *as_user) if "setpriv" in programs else ()),
        programs["bwrap"],
        *(
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
        ),
        *variables,
        *("--ro-bind", "/usr", "/usr"),
        *("--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        # `--dev` alone mounts a /dev/shm without a size, which no limit on address space or files would bound.
        *("--proc", "/proc", "--dev", "/dev", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *binds,
        *("--remount-ro", "/"),
        *("--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--seccomp", str(filter_fd), *(() if status_fd is None else ("--json-status-fd", str(status_fd))), "--"),
        # Set inside the user namespace, the limit on processes counts this sandbox alone.
        *(programs["prlimit"], f"--nproc={limits.processes}", f"--as={limits.memory_bytes}"),
        *(f"--fsize={limits.file_bytes}", f"--nofile={limits.open_files}", "--core=0"),
        # The soft limit sends SIGXCPU, which tells a used-up CPU from any other kill.
        *(f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 1}", "--"),
        *program,
    ]


def find_programs() -> dict[str, str]:
    """Paths of the programs that start a sandbox as this user. Raises `IsolationUnavailable` where one is missing."""
    return {name: _find(name) for name in PACKAGES if name != "setpriv" or os.geteuid() == 0}


class _Watch:
    """Follows one process to its end: bounded output, one deadline, CPU seconds. Mutable, used once."""

    def __init__(self, process: subprocess.Popen[bytes], config: SandboxConfig, deadline: float) -> None:
        self._process = process
        self._limit = config.output_bytes
        self._deadline = deadline
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.truncated = False
        self.deadline_passed = False
        self.cpu_seconds = 0.0

    def follow(self) -> None:
        """Read until the process is gone; kill it, and with it all that it started, when the deadline passes."""
        stdout, stderr = self._process.stdout, self._process.stderr
        if stdout is None or stderr is None:
            raise ValueError("sandboxed process: no output to follow; start it with pipes")
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ, self._keep_stdout)
            selector.register(stderr, selectors.EVENT_READ, self._keep_stderr)
            while selector.get_map():
                ready = selector.select(max(0.0, self._deadline - time.monotonic()))
                if not ready and time.monotonic() >= self._deadline:
                    break
                for key, _ in ready:
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    key.data(chunk)
                    if not chunk:
                        selector.unregister(key.fileobj)
        self._reap()

    def _keep_stdout(self, chunk: bytes) -> None:
        room = self._limit - len(self.stdout)
        self.stdout += chunk[:room]
        self.truncated |= len(chunk) > room

    def _keep_stderr(self, chunk: bytes) -> None:
        self.stderr = (self.stderr + chunk)[-self._limit :]

    def _reap(self) -> None:
        """Wait for the end, by force after the deadline. The process may have closed its output and still run."""
        descriptor = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                if not selector.select(max(0.0, self._deadline - time.monotonic())):
                    self.deadline_passed = True
                    # The sandbox dies with its launcher, so this reaches every process in it.
                    os.killpg(self._process.pid, signal.SIGKILL)
        finally:
            os.close(descriptor)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime


def _find(name: str) -> str:
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise IsolationUnavailable(
            f"sandbox: the program {name!r} is missing; install it with `apt-get install {PACKAGES[name]}`"
        )
    return found


def readable(content: bytes) -> int:
    """A descriptor that gives `content`; the caller closes it."""
    descriptor = os.memfd_create("sandbox")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _exit_code(status: bytes) -> int | None:
    """The exit code out of bwrap's status documents; it writes none for a program that it could not start."""
    documents = [json.loads(line) for line in status.splitlines() if line.strip()]
    return next((document["exit-code"] for document in documents if "exit-code" in document), None)


def payload_source() -> str:
    """The program that runs the model's code, as text: the sandbox cannot see this package."""
    return (Path(__file__).parent / "payload.py").read_text(encoding="utf-8")
