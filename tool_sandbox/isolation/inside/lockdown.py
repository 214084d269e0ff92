"""Turns a forked process into one that may run the model's code: its folder, its descriptors, its limits, its cage."""

from __future__ import annotations

import os
import resource
import sys

from tool_sandbox.isolation.inside import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

READABLE = ("/usr",)
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
STDOUT, STDERR, REPORT, REQUESTS = 1, 2, 3, 4
"""Descriptors of the model's process; it has no others."""


def lock_down(folder: str, limits: dict[str, Any], program: bytes) -> None:
    """Confine this process for good. Whatever fails raises: a process that is half confined must not go on."""
    os.chdir(folder)
    os.environ["TMPDIR"] = folder
    _limit(limits)
    # In namespaces of its own the process sees nothing but its sandbox even without Landlock, which old kernels lack.
    if not limits["own_namespaces"] or kernel.landlock_abi() > 0:
        kernel.restrict_files(READABLE, (folder,), DEVICES)
    kernel.install_filter(program)


def take_descriptors(stdin: int, stdout: int, stderr: int, report: int, requests: int) -> None:
    """Put the pipes where they belong and close everything else."""
    # Duplicated upwards first, so that no target overwrites a source that is still needed.
    given = (stdin, stdout, stderr, report, requests)
    high = [os.dup2(fd, 100 + index) for index, fd in enumerate(given)]
    for target, source in enumerate(high):
        os.dup2(source, target)
    os.closerange(len(high), 4096)
    sys.stdin = _text(0, "r")
    sys.stdout = _text(STDOUT, "w")
    sys.stderr = _text(STDERR, "w")


def _text(descriptor: int, mode: str) -> TextIO:
    # The streams of the process: they stay open until it ends.
    return open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # type: ignore[return-value]


def _limit(limits: dict[str, Any]) -> None:
    pairs = {
        # The soft limit sends SIGXCPU, which tells a used-up CPU from any other kill.
        resource.RLIMIT_CPU: (limits["cpu_seconds"], limits["cpu_seconds"] + 1),
        resource.RLIMIT_AS: (limits["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (limits["file_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    if limits["processes"] is not None:
        pairs[resource.RLIMIT_NPROC] = (limits["processes"],) * 2
    for name, pair in pairs.items():
        resource.setrlimit(name, pair)
