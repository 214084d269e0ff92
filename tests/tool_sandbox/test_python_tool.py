"""The `python` tool in its real sandbox: typed endings, and each trap of bubblewrap probed from inside.

Where a probe would pass for the wrong reason (a file that nobody could read, a port that nobody listens on), the test
first shows that the same thing works outside.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tool_sandbox.config import SandboxConfig
from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation import launcher
from tool_sandbox.isolation.python_tool import CUT_MARKER, PYTHON_SPEC, PythonTool, default_python_tool
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, Trust

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def tool() -> PythonTool:
    return PythonTool(SandboxConfig(cpu_seconds=1, wall_seconds=8, processes=12, memory_bytes=256 * MIB))


def run(tool: PythonTool, code: str) -> ToolResult:
    return tool(ToolCall("c", "python", {"code": code}))


def outside(code: str) -> str:
    """The same code without a sandbox: the positive control."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout


def test_printed_output_is_the_observation(tool: PythonTool) -> None:
    result = run(tool, "print(6 * 7)")
    assert (result.status, result.content, result.call_id) == (CallStatus.OK, "42", "c")
    assert 0 < result.cpu_seconds < result.wall_seconds + 0.5


def test_an_exception_shows_its_last_line_after_the_output(tool: PythonTool) -> None:
    result = run(tool, "print('so far')\n1 / 0")
    assert result.status is CallStatus.TOOL_ERROR
    assert result.content == "so far\nerror: ZeroDivisionError: division by zero"
    assert run(tool, "def f(:").status is CallStatus.TOOL_ERROR


def test_how_code_exits_is_its_own_affair(tool: PythonTool) -> None:
    assert run(tool, "import sys; sys.exit(0)").status is CallStatus.OK
    assert run(tool, "import sys; sys.exit(3)").content == "error: SystemExit: 3"
    assert run(tool, "import os; os._exit(9)").content == "error: ended with code 9"
    assert run(tool, "import os; os.kill(os.getpid(), 11)").status is CallStatus.TOOL_ERROR


def test_an_infinite_loop_times_out_by_cpu_seconds_long_before_the_wall(tool: PythonTool) -> None:
    result = run(tool, "while True: pass")
    assert (result.status, result.content) == (CallStatus.TIMEOUT, "error: out of time")
    assert 1.0 <= result.cpu_seconds < 1.5
    assert result.wall_seconds < 8


def test_sleeping_times_out_by_the_wall_even_with_its_output_closed() -> None:
    tool = PythonTool(SandboxConfig(wall_seconds=0.8))
    for code in ("import time; time.sleep(60)", "import os, time; os.close(1); os.close(2); time.sleep(60)"):
        result = run(tool, code)
        assert result.status is CallStatus.TIMEOUT
        assert 0.8 <= result.wall_seconds < 5
        assert result.cpu_seconds < 0.5


def test_too_much_memory_is_out_of_memory(tool: PythonTool) -> None:
    result = run(tool, "x = bytearray(10**9)")
    assert (result.status, result.content) == (CallStatus.OUT_OF_MEMORY, "error: out of memory")


def test_long_output_is_cut_with_a_marker(tool: PythonTool) -> None:
    result = run(tool, "for _ in range(2000): print('x' * 1000)")
    assert result.status is CallStatus.OK
    assert result.content.endswith(CUT_MARKER)
    assert len(result.content) == 4096 + len(CUT_MARKER)


def test_the_environment_of_the_launcher_is_nowhere_to_be_seen(
    tool: PythonTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPTOOL_TEST_SECRET", "hunter2")
    probe = """
import glob, os
found = str(os.environ)
for path in glob.glob("/proc/*/environ"):
    try:
        found += open(path).read()
    except OSError:
        pass
print("hunter2" in found, len(glob.glob("/proc/*/environ")) > 0)
"""
    assert outside(probe) == "True True\n"
    assert run(tool, probe).content == "False True"


def test_a_file_of_the_host_cannot_be_read(tool: PythonTool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o055)
    probe = f"print(open({str(secret)!r}).read())"
    assert outside(probe) == "hunter2\n"
    assert "No such file" in run(tool, probe).content


def test_a_listener_on_the_loopback_cannot_be_reached(tool: PythonTool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        probe = f"import socket; socket.create_connection({address!r}, timeout=3); print('connected')"
        assert outside(probe) == "connected\n"
        result = run(tool, probe)
    assert result.status is CallStatus.DENIED
    assert "Operation not permitted" in result.content


def test_writing_outside_the_scratch_folder_is_denied(tool: PythonTool) -> None:
    for path in ("/usr/x", "/dev/x", "/x"):
        assert run(tool, f"open({path!r}, 'w')").status is CallStatus.DENIED, path
        assert not Path(path).exists()
    assert run(tool, "open('/tmp/x', 'w').write('hi'); print(open('/tmp/x').read())").content == "hi"


def test_nothing_survives_into_the_next_call(tool: PythonTool) -> None:
    run(tool, "open('/tmp/left', 'w').write('behind')")
    assert run(tool, "import os; print(os.listdir('/tmp'))").content == "[]"


def test_a_fork_bomb_stays_small_and_the_next_call_works(tool: PythonTool) -> None:
    probe = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            time.sleep(30)
        made += 1
except OSError as error:
    print(made, type(error).__name__)
"""
    count, kind = run(tool, probe).content.split()
    assert 1 <= int(count) < 12
    assert kind == "BlockingIOError"
    assert run(tool, "print('fine')").content == "fine"


def test_disk_and_shared_memory_are_bounded(tool: PythonTool) -> None:
    fill = """
import os
written = 0
try:
    for n in range(50):
        with open(f"{folder}/{n}", "wb", buffering=0) as file:
            written += file.write(bytes(8 * 1024 * 1024))
except OSError as error:
    pass
print(written // (1024 * 1024))
"""
    assert int(run(tool, "folder = '/tmp'" + fill).content) <= 64
    assert int(run(tool, "folder = '/dev/shm'" + fill).content) <= 16


@pytest.mark.parametrize(
    "probe",
    [
        "libc.unshare(0x10000000)",  # a user namespace of one's own
        "libc.ptrace(0, 0, 0, 0)",
        "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)",
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(250, 0, 0)" if os.uname().machine == "x86_64" else "libc.syscall(219, 0, 0)",  # keyctl
    ],
)
def test_dangerous_system_calls_are_refused(tool: PythonTool, probe: str) -> None:
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint({probe}, ctypes.get_errno())"
    # -S leaves ctypes' own library importable: it is part of the standard library.
    assert run(tool, code).content == "-1 1"


def test_code_runs_as_a_user_without_rights(tool: PythonTool) -> None:
    probe = """
import os
capabilities = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
print(os.getuid() == 0, capabilities)
"""
    assert run(tool, probe).content == "False ['0000000000000000']"


def test_threads_still_work(tool: PythonTool) -> None:
    code = "import threading; t = threading.Thread(target=lambda: print('ran')); t.start(); t.join()"
    assert run(tool, code).content == "ran"


def test_bad_arguments_never_reach_a_sandbox(tool: PythonTool) -> None:
    result = tool(ToolCall("c", "python", {"source": "1"}))
    assert (result.status, result.content) == (CallStatus.INVALID_ARGUMENTS, "error: python needs code")
    assert PYTHON_SPEC.trust is Trust.ISOLATED


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(
        launcher.shutil, "which", lambda name, path: None if name == "bwrap" else which(name, path=path)
    )
    with pytest.raises(IsolationUnavailable, match=r"'bwrap' is missing.*apt-get install bubblewrap"):
        PythonTool(SandboxConfig())


def test_a_sandbox_that_does_not_start_is_our_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2\nexit 1\n")
    for folder in (broken, tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o055)
    which = shutil.which
    monkeypatch.setattr(
        launcher.shutil, "which", lambda name, path: str(broken) if name == "bwrap" else which(name, path=path)
    )
    result = run(PythonTool(SandboxConfig()), "print(1)")
    assert result.status is CallStatus.INFRA_ERROR
    assert result.content == "error: the sandbox did not start: bwrap: Creating new namespace failed"


def test_a_ledger_task_that_names_python_gets_the_real_one() -> None:
    ledger = LedgerToolset()
    task = ledger.sample_task(Split.TRAIN, "L2", 0)
    session = ledger.open(replace(task, tools=(*task.tools, "python")))
    result = session.call(ToolCall("c", "python", {"code": "print(2 + 2)"})).result
    assert (result.status, result.content) == (CallStatus.OK, "4")
    assert default_python_tool() is default_python_tool()
