"""Which isolation a machine gives: as root and not, with user namespaces and without, and never silently less."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tool_sandbox.config import SandboxConfig
from tool_sandbox.errors import IsolationUnavailable, SandboxUnavailable
from tool_sandbox.isolation import command
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import reach
from tool_sandbox.isolation.python_tool import PYTHON
from tool_sandbox.isolation.worker import Worker
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall

STRICT = SandboxConfig(min_level=IsolationLevel.NAMESPACES)
LENIENT = SandboxConfig(min_level=IsolationLevel.LANDLOCK, cpu_seconds=1, wall_seconds=2)
REPOSITORY = Path(__file__).resolve().parents[2]

PROBES = """
import json, os, sys
from tool_sandbox.config import SandboxConfig
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import reach
from tool_sandbox.isolation.python_tool import PYTHON
from tool_sandbox.tools import ToolCall
config = SandboxConfig(min_level="landlock", cpu_seconds=1, wall_seconds=2, workers=1)
reached = reach(config)
sandbox = IsolatedSandbox([PYTHON], config, reached.level)
run = lambda code: sandbox.run(ToolCall("c", "python", {"code": code})).status.value
codes = ["print(1)", "open('/etc/passwd')", "import socket; socket.socket()", "import os; os.kill(PARENT, 9)"]
codes.append("while True: pass")
print(json.dumps([os.geteuid(), reached.level.value, *(run(c.replace("PARENT", str(os.getpid()))) for c in codes)]))
sandbox.close()
"""


def hide_bwrap(monkeypatch: pytest.MonkeyPatch, instead: str | None) -> None:
    which = shutil.which
    monkeypatch.setattr(
        command.shutil, "which", lambda name, path: instead if name == "bwrap" else which(name, path=path)
    )
    command.find_program.cache_clear()


@pytest.fixture(autouse=True)
def fresh_programs() -> None:
    command.find_program.cache_clear()


def test_levels_are_ordered_from_strong_to_none() -> None:
    assert [level.at_least(IsolationLevel.LANDLOCK) for level in IsolationLevel] == [True, True, False, False]


def test_this_machine_reaches_namespaces() -> None:
    reached = reach(STRICT)
    assert (reached.level, reached.reasons) == (IsolationLevel.NAMESPACES, ())


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_bwrap(monkeypatch, None)
    with pytest.raises(IsolationUnavailable, match=r"'bwrap' is missing.*apt-get install bubblewrap"):
        reach(STRICT)


def test_less_isolation_is_reached_only_where_it_is_accepted_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2\nexit 1\n")
    for folder in (broken, tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o055)
    hide_bwrap(monkeypatch, str(broken))
    with pytest.raises(IsolationUnavailable, match=r"level 'namespaces'.*Creating new namespace failed.*min_level"):
        reach(STRICT)
    reached = reach(LENIENT)
    assert reached.level is IsolationLevel.LANDLOCK
    assert "Creating new namespace failed" in reached.reasons[0]


def test_where_user_namespaces_are_forbidden_landlock_still_holds() -> None:
    """A container that forbids them, emulated by bubblewrap around the whole process."""
    command = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--unshare-user",
        "--disable-userns",
        "--uid",
        "12345",
        "--gid",
        "12345",
    ]
    answer = subprocess.run(
        [*command, "--", sys.executable, "-c", PROBES],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [12345, "landlock", "ok", "denied", "denied", "denied", "timeout"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_unprivileged_user_gets_namespaces_too() -> None:
    answer = _as_nobody(lambda: _status_of("print(6 * 7)"))
    assert answer == "ok"


def test_sandboxes_end_with_the_process_that_owns_them() -> None:
    code = "import os, time\n" + PROBES.split("run =")[0] + "sandbox.run(ToolCall('c', 'python', {'code': '1'}))\n"
    code += "print(sandbox._free.get().pid, flush=True)\ntime.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        owner.send_signal(signal.SIGKILL)
        owner.wait(30)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}/exe").exists()


def test_a_dead_sandbox_is_an_error_with_its_last_words_and_closing_it_twice_is_safe() -> None:
    sandbox = Worker(LENIENT, IsolationLevel.NAMESPACES)
    os.kill(sandbox.pid, signal.SIGKILL)
    with pytest.raises(SandboxUnavailable, match="sandbox: it"):
        sandbox.request({"kind": "once", "code": "1"})
    sandbox.close()
    sandbox.close()


def test_a_worker_that_died_costs_its_call_nothing() -> None:
    sandbox = IsolatedSandbox([PYTHON], LENIENT.model_copy(update={"workers": 1}), IsolationLevel.NAMESPACES)
    try:
        call = ToolCall("c", "python", {"code": "print(1)"})
        assert sandbox.run(call).status is CallStatus.OK
        for pid in _own_sandboxes():
            os.kill(pid, signal.SIGKILL)
        assert sandbox.run(call).status is CallStatus.OK
    finally:
        sandbox.close()


def _own_sandboxes() -> list[int]:
    children = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "bwrap\n"]


def _status_of(code: str) -> str:
    sandbox = IsolatedSandbox([PYTHON], LENIENT.model_copy(update={"workers": 1}), IsolationLevel.NAMESPACES)
    try:
        return sandbox.run(ToolCall("c", "python", {"code": code})).status.value
    finally:
        sandbox.close()


def _as_nobody(body: Callable[[], str]) -> str:
    """What a function gives in a forked process without privileges."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            os.write(write, body().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text
