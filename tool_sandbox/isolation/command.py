"""Command lines of sandboxes: bubblewrap with namespaces of its own, and the way down from root.

Owns the programs that this needs, and how the sandbox's file system looks. Starts nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from tool_sandbox.config import MIB, SandboxConfig
from tool_sandbox.errors import IsolationUnavailable

PYTHON = "/usr/bin/python3"
"""The system's interpreter: the one that runs this project may live where the sandbox's user cannot read."""
PACKAGES = {"bwrap": "bubblewrap", "setpriv": "util-linux", "prlimit": "util-linux", PYTHON: "python3"}
"""Program → Debian package."""
SHARED_MEMORY_BYTES = MIB


def as_user(config: SandboxConfig) -> list[str]:
    """Drop to the sandbox's own user where the launcher is root: limits on processes do not bind root."""
    if os.geteuid() != 0:
        return []
    return [find_program("setpriv"), f"--reuid={config.uid}", f"--regid={config.uid}", "--clear-groups", "--"]


def bubblewrap(
    config: SandboxConfig,
    filter_fd: int,
    *,
    environment: Mapping[str, str] | None = None,
    read_only: Mapping[Path, str] | None = None,
    first: bool = False,
) -> list[str]:
    """The beginning of a command: what follows runs in a sandbox without a network. Start it with an empty environment.

    `filter_fd` is inherited and holds the system-call filter. `environment` is all that the program sees. Each folder
    of `read_only` can be read inside at the given place, if the sandbox's user can read it. `first`: the program is
    process 1 of the sandbox and must reap what others leave.
    """
    variables = [part for name, value in (environment or {}).items() for part in ("--setenv", name, value)]
    binds = [part for folder, place in (read_only or {}).items() for part in ("--ro-bind", str(folder), place)]
    return [
        *(find_program("bwrap"), *(("--as-pid-1",) if first else ())),
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv"),
        *variables,
        *("--ro-bind", "/usr", "/usr"),
        *("--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        # `--dev` alone mounts a /dev/shm without a size, which no limit on address space or files would bound.
        *("--proc", "/proc", "--dev", "/dev", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--size", str(config.tmp_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *binds,
        *("--remount-ro", "/"),
        *("--cap-drop", "ALL", "--hostname", "sandbox", "--seccomp", str(filter_fd), "--"),
    ]


def limited(config: SandboxConfig, program: Sequence[str]) -> list[str]:
    """A command under the budgets of one call, for programs that are not forked by the zygote.

    Set inside the user namespace, the limit on processes counts this sandbox alone.
    """
    return [
        *(find_program("prlimit"), f"--nproc={config.processes}", f"--as={config.memory_bytes}"),
        *(f"--fsize={config.file_bytes}", f"--nofile={config.open_files}", "--core=0"),
        # The soft limit sends SIGXCPU, which tells a used-up CPU from any other kill.
        *(f"--cpu={config.cpu_seconds}:{config.cpu_seconds + 1}", "--", *program),
    ]


@cache
def find_program(name: str) -> str:
    """Full path of a program. Raises `IsolationUnavailable` with the package that has it."""
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise IsolationUnavailable(
            f"sandbox: the program {name!r} is missing; install it with `apt-get install {PACKAGES[name]}`"
        )
    return found


def memory_file(content: bytes) -> IO[bytes]:
    """An open file in memory, at its beginning; a child that inherits its descriptor can read it."""
    file = os.fdopen(os.memfd_create("sandbox"), "w+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file
