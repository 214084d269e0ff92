"""Model-written code in its real sandbox, at both levels of isolation: typed endings, budgets, and nothing left behind.

Where a probe would pass for the wrong reason (a file that nobody could read, a port that nobody listens on), the test
first shows that the same thing works outside.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tool_sandbox.config import SandboxConfig
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.outcome import CUT_MARKER
from tool_sandbox.isolation.python_tool import PYTHON, PYTHON_SPEC
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split
from tool_sandbox.tiers import process_tiers
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, Trust

MIB = 1024 * 1024
LEVELS = (IsolationLevel.NAMESPACES, IsolationLevel.LANDLOCK)
CONFIG = SandboxConfig(cpu_seconds=1, wall_seconds=2, processes=12, memory_bytes=256 * MIB, files=500, workers=1)


@pytest.fixture(scope="module", params=LEVELS, ids=lambda level: level.value)
def sandbox(request: pytest.FixtureRequest) -> Iterator[IsolatedSandbox]:
    sandbox = IsolatedSandbox([PYTHON], CONFIG, request.param)
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def strong() -> Iterator[IsolatedSandbox]:
    sandbox = IsolatedSandbox([PYTHON], CONFIG, IsolationLevel.NAMESPACES)
    yield sandbox
    sandbox.close()


def run(sandbox: IsolatedSandbox, code: str) -> ToolResult:
    return sandbox.run(ToolCall("c", "python", {"code": code}))


def outside(code: str) -> str:
    """The same code without a sandbox: the positive control."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout


def test_printed_output_is_the_observation(sandbox: IsolatedSandbox) -> None:
    result = run(sandbox, "print(6 * 7)")
    assert (result.status, result.content, result.call_id) == (CallStatus.OK, "42", "c")
    assert 0 < result.cpu_seconds < result.wall_seconds + 0.5
    assert result.isolation is sandbox.level


def test_an_exception_shows_its_last_line_after_the_output(sandbox: IsolatedSandbox) -> None:
    result = run(sandbox, "print('so far')\n1 / 0")
    assert result.status is CallStatus.TOOL_ERROR
    assert result.content == "so far\nerror: ZeroDivisionError: division by zero"
    assert run(sandbox, "def f(:").status is CallStatus.TOOL_ERROR


def test_how_code_exits_is_its_own_affair(sandbox: IsolatedSandbox) -> None:
    assert run(sandbox, "import sys; sys.exit(0)").status is CallStatus.OK
    assert run(sandbox, "import sys; sys.exit(3)").content == "error: SystemExit: 3"
    assert run(sandbox, "import os; os._exit(9)").content == "error: ended with code 9"
    assert run(sandbox, "import os; os.kill(os.getpid(), 11)").status in (CallStatus.TOOL_ERROR, CallStatus.DENIED)
    assert run(sandbox, "raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})").content == "error: E"


@pytest.mark.parametrize(
    "code", ["import os; os._exit(72)", "import os; os.write(3, b'\\0\\0\\0\\x08\"uncaged')", "import os; os.close(3)"]
)
def test_code_cannot_claim_that_its_failure_was_ours(sandbox: IsolatedSandbox, code: str) -> None:
    assert run(sandbox, code).status is not CallStatus.INFRA_ERROR


def test_a_forged_report_changes_only_its_own_words(sandbox: IsolatedSandbox) -> None:
    forged = """
import json, os
report = json.dumps({"error": "x", "code": []}).encode()
os.write(3, len(report).to_bytes(4, "big") + report)
os._exit(5)
"""
    assert run(sandbox, forged).content == "error: x"
    huge = "import os; os.write(3, b'\\xff\\xff\\xff\\xff'); import time; time.sleep(5)"
    assert run(sandbox, huge).content == "error: the interpreter broke"
    assert run(sandbox, "print('fine')").content == "fine"


def test_an_infinite_loop_times_out_by_cpu_seconds_long_before_the_wall(sandbox: IsolatedSandbox) -> None:
    result = run(sandbox, "while True: pass")
    assert (result.status, result.content) == (CallStatus.TIMEOUT, "error: out of time")
    assert 0.9 <= result.cpu_seconds < 1.5


def test_ignoring_the_signal_of_the_cpu_limit_does_not_help(sandbox: IsolatedSandbox) -> None:
    result = run(sandbox, "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass")
    assert result.status is CallStatus.TIMEOUT


def test_sleeping_times_out_by_the_wall_even_with_its_output_closed(sandbox: IsolatedSandbox) -> None:
    for code in ("import time; time.sleep(60)", "import os, time; os.close(1); os.close(2); time.sleep(60)"):
        result = run(sandbox, code)
        assert result.status is CallStatus.TIMEOUT
        assert result.wall_seconds >= 2
        assert result.cpu_seconds < 0.5


def test_cpu_seconds_of_all_processes_of_a_call_count_together(strong: IsolatedSandbox) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = run(strong, code)
    assert result.status is CallStatus.TIMEOUT
    # Eight processes of one second each would be 8.
    assert result.cpu_seconds < 2.5


def test_a_busy_machine_changes_no_status() -> None:
    """Code near its wall budget: idle it sleeps 1.2 of 2 seconds. Then four processes fight it for two CPUs."""
    codes = {
        "import time; time.sleep(1.2); print('slept')": CallStatus.OK,
        "x = sum(i * i for i in range(2_000_000)); print('counted')": CallStatus.OK,
        "while True: pass": CallStatus.TIMEOUT,
        "1 / 0": CallStatus.TOOL_ERROR,
    }
    config = CONFIG.model_copy(update={"workers": 4, "wall_seconds": 2.0})
    sandbox = IsolatedSandbox([PYTHON], config, IsolationLevel.NAMESPACES)
    burners = []
    try:
        idle = {code: run(sandbox, code).status for code in codes}
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
        busy: dict[str, CallStatus] = {}
        threads = [threading.Thread(target=lambda c=code: busy.update({c: run(sandbox, c).status})) for code in codes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        sandbox.close()
    assert idle == codes
    assert busy == codes


def test_too_much_memory_is_out_of_memory(sandbox: IsolatedSandbox) -> None:
    result = run(sandbox, "x = bytearray(10**9)")
    assert (result.status, result.content) == (CallStatus.OUT_OF_MEMORY, "error: out of memory")


def test_memory_of_all_processes_of_a_call_counts_together(strong: IsolatedSandbox) -> None:
    code = """
import os, time
for _ in range(3):
    os.fork()
x = bytearray(100 * 2**20)
x[::4096] = b"1" * len(x[::4096])
time.sleep(5)
"""
    assert run(strong, code).status is CallStatus.OUT_OF_MEMORY


def test_long_output_is_cut_with_a_marker(sandbox: IsolatedSandbox) -> None:
    result = run(sandbox, "for _ in range(2000): print('x' * 1000)")
    assert result.status is CallStatus.OK
    assert result.content.endswith(CUT_MARKER)
    assert len(result.content) == 4096 + len(CUT_MARKER)


def test_the_environment_of_the_launcher_is_nowhere_to_be_seen(
    sandbox: IsolatedSandbox, monkeypatch: pytest.MonkeyPatch
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
print("hunter2" in found)
"""
    assert outside(probe) == "True\n"
    assert run(sandbox, probe).content == "False"


def test_a_file_of_the_host_cannot_be_read(sandbox: IsolatedSandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o055)
    probe = f"print(open({str(secret)!r}).read())"
    assert outside(probe) == "hunter2\n"
    assert run(sandbox, probe).status in (CallStatus.TOOL_ERROR, CallStatus.DENIED)


def test_a_listener_on_the_loopback_cannot_be_reached(sandbox: IsolatedSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        probe = f"import socket; socket.create_connection({address!r}, timeout=3); print('connected')"
        assert outside(probe) == "connected\n"
        result = run(sandbox, probe)
    assert result.status is CallStatus.DENIED
    assert "Operation not permitted" in result.content


def test_writing_outside_the_scratch_folder_is_denied(sandbox: IsolatedSandbox) -> None:
    for path in ("/usr/x", "/dev/x", "/x", "/dev/shm/x"):
        assert run(sandbox, f"open({path!r}, 'w')").status is CallStatus.DENIED, path
        assert not Path(path).exists()
    assert run(sandbox, "import tempfile; print(tempfile.TemporaryFile('w').write('hi'))").content == "2"
    assert run(sandbox, "open('x', 'w').write('hi'); print(open('x').read())").content == "hi"


@pytest.mark.parametrize(
    "leaving",
    [
        "open('left', 'w').write('behind')",
        "import os\nfor d in range(300): os.mkdir('d'); os.chdir('d')",
        "import os; os.mkdir('shut'); open('shut/x', 'w'); os.chmod('shut', 0)",
        "import os; os.symlink('/usr', 'link')",
    ],
)
def test_nothing_survives_into_the_next_call(sandbox: IsolatedSandbox, leaving: str) -> None:
    run(sandbox, leaving)
    assert run(sandbox, "import os; print(os.listdir('.'))").content == "[]"


def test_a_daemon_does_not_outlive_its_call(strong: IsolatedSandbox) -> None:
    daemon = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1)
        open("/tmp/late", "w")
    os._exit(0)
"""
    assert run(strong, daemon).status is CallStatus.OK
    assert run(strong, "import os, time; time.sleep(1.5); print(os.listdir('/tmp'))").content == "[]"


def test_a_fork_bomb_stays_small_and_the_next_call_works(strong: IsolatedSandbox) -> None:
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
    count, kind = run(strong, probe).content.split()
    assert 1 <= int(count) < 12
    assert kind == "BlockingIOError"
    assert run(strong, "print('fine')").content == "fine"


def test_without_a_process_namespace_code_may_not_fork() -> None:
    sandbox = IsolatedSandbox([PYTHON], CONFIG, IsolationLevel.LANDLOCK)
    try:
        for code in ("import os; os.fork()", "import subprocess; subprocess.run(['/usr/bin/true'])"):
            assert run(sandbox, code).status is CallStatus.DENIED
    finally:
        sandbox.close()


def test_files_are_bounded_in_size_and_number(sandbox: IsolatedSandbox) -> None:
    many = "import time\nfor n in range(5000): open(f'{n}', 'w').close()\ntime.sleep(1)"
    assert run(sandbox, many).content == "error: out of disk"
    large = "f = open('x', 'wb')\nfor _ in range(40): f.write(bytes(2**20))"
    assert run(sandbox, large).content == "error: OSError: [Errno 27] File too large"


@pytest.mark.parametrize(
    "probe",
    [
        "libc.unshare(0x10000000)",  # a user namespace of one's own
        "libc.ptrace(0, 0, 0, 0)",
        "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)",
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(319, b'x', 0)"
        if os.uname().machine == "x86_64"
        else "libc.syscall(279, b'x', 0)",  # memfd_create
        "libc.prctl(4, 1, 0, 0, 0)",  # PR_SET_DUMPABLE
        "libc.prlimit64(1, 7, None, None)",  # limits of another process
    ],
)
def test_dangerous_system_calls_are_refused(sandbox: IsolatedSandbox, probe: str) -> None:
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint({probe}, ctypes.get_errno())"
    assert run(sandbox, code).content == "-1 1"


def test_code_runs_as_a_user_without_rights(sandbox: IsolatedSandbox) -> None:
    assert run(sandbox, "import os; print(os.getuid() == 0)").content == "False"


def test_threads_still_work(sandbox: IsolatedSandbox) -> None:
    code = "import threading; t = threading.Thread(target=lambda: print('ran')); t.start()"
    assert run(sandbox, code).content == "ran"


def test_code_is_compiled_as_it_stands(sandbox: IsolatedSandbox) -> None:
    """Not with the future imports of the module that runs it: annotations are values, as in any new file."""
    assert run(sandbox, "def f(a: 1 + 1): pass\nprint(f.__annotations__)").content == "{'a': 2}"


def test_sets_have_one_order_so_that_observations_repeat(sandbox: IsolatedSandbox) -> None:
    code = "print({'ant', 'bee', 'cat', 'dog', 'eel'})"
    other = IsolatedSandbox([PYTHON], CONFIG, sandbox.level)
    try:
        assert run(sandbox, code).content == run(other, code).content
    finally:
        other.close()


def test_bad_arguments_never_reach_a_sandbox(sandbox: IsolatedSandbox) -> None:
    result = sandbox.run(ToolCall("c", "python", {"source": "1"}))
    assert (result.status, result.content) == (CallStatus.INVALID_ARGUMENTS, "error: python needs code")
    assert PYTHON_SPEC.trust is Trust.ISOLATED


def test_a_call_that_waits_too_long_for_a_worker_is_our_failure() -> None:
    config = CONFIG.model_copy(update={"queue_seconds": 0.2, "wall_seconds": 1.5})
    sandbox = IsolatedSandbox([PYTHON], config, IsolationLevel.NAMESPACES)
    try:
        first = threading.Thread(target=run, args=(sandbox, "import time; time.sleep(5)"))
        first.start()
        time.sleep(0.3)
        result = run(sandbox, "print(1)")
        first.join(30)
    finally:
        sandbox.close()
    assert result.status is CallStatus.INFRA_ERROR
    assert "none of 1 workers came free in 0.2 s; raise sandbox.workers" in result.content


def test_a_ledger_task_that_names_python_gets_the_real_one() -> None:
    ledger = LedgerToolset()
    task = ledger.sample_task(Split.TRAIN, "L2", 0)
    session = ledger.open(replace(task, tools=(*task.tools, "python")))
    try:
        result = session.call(ToolCall("c", "python", {"code": "print(2 + 2)"})).result
    finally:
        process_tiers().close()
    assert (result.status, result.content) == (CallStatus.OK, "4")
