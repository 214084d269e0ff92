"""The positive control: the same program, as the same user, with nothing around it but limits for the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

from tool_sandbox.attacks.attack import Attack, NoControl
from tool_sandbox.attacks.fixtures import Fixtures
from tool_sandbox.isolation.command import PYTHON
from tool_sandbox.tools import CallStatus, ToolResult

_DEADLINE_SECONDS = 20.0
_LIMITS = ("--as=1073741824", "--cpu=5", "--fsize=16777216", "--nofile=256", "--core=0")


def can_control(attack: Attack) -> str | None:
    """Why the control cannot be run on this machine; None where it can."""
    if isinstance(attack.control, NoControl):
        return attack.control.reason
    offered = {
        "root": os.geteuid() == 0,
        "x86_64": platform.machine() == "x86_64",
        "ptrace": _traces_same_user(),
    }
    missing = sorted(name for name in attack.control.needs if not offered[name])
    return f"needs {', '.join(missing)}" if missing else None


def run_outside(attack: Attack, fixtures: Fixtures) -> ToolResult:
    """Run the program, and its follow-up, outside any sandbox; the result is that of the last call.

    Raises:
        ValueError: the attack must not be run outside.
    """
    if isinstance(attack.control, NoControl):
        raise ValueError(f"attack {attack.name!r} has no control: {attack.control.reason}")
    user = None if "root" in attack.control.needs else fixtures.uid
    result = _run(attack.program(fixtures.values), fixtures, user)
    second = attack.follow_up_program(fixtures.values)
    return _run(second, fixtures, user) if second else result


def _run(source: str, fixtures: Fixtures, user: int | None) -> ToolResult:
    started = time.monotonic()
    # A descriptor that a careless launcher would leave open. Output goes to a file: a daemon would keep a pipe open.
    leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with tempfile.TemporaryFile() as output:
            ended = subprocess.run(
                ["prlimit", *_LIMITS, "--", PYTHON, "-I", "-S", "-u", "-c", source],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={fixtures.secret_env: fixtures.secret, "PATH": "/usr/bin:/bin"},
                cwd=fixtures.working,
                pass_fds=(leaked,),
                timeout=_DEADLINE_SECONDS,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                check=False,
            )
            output.seek(0)
            content = output.read().decode(errors="replace")
    finally:
        os.close(leaked)
    status = CallStatus.OK if ended.returncode == 0 else CallStatus.TOOL_ERROR
    return ToolResult("control", status, content, 0.0, time.monotonic() - started)


def _traces_same_user() -> bool:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return not scope.exists() or scope.read_text().strip() == "0"
