"""Stateful sessions in their real sandbox: what they remember, what ends them, and forks by repeated calls."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tool_sandbox.config import SandboxConfig
from tool_sandbox.errors import ForkDiverged, LeaseLost, SandboxFull
from tool_sandbox.isolation.python_tool import NOTEBOOK
from tool_sandbox.isolation.stateful import StatefulSandbox, StatefulSession
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult

CONFIG = SandboxConfig(cpu_seconds=1, wall_seconds=2, max_stateful_sessions=3, warm_sessions=1)
LEVELS = (IsolationLevel.NAMESPACES, IsolationLevel.LANDLOCK)


@pytest.fixture(params=LEVELS, ids=lambda level: level.value)
def sandbox(request: pytest.FixtureRequest) -> Iterator[StatefulSandbox]:
    sandbox = StatefulSandbox([NOTEBOOK], CONFIG, request.param)
    yield sandbox
    sandbox.close()


def run(session: StatefulSession, code: str) -> ToolResult:
    return session.call(ToolCall("c", "notebook", {"code": code}))


def test_variables_and_files_stay_and_the_last_value_is_shown(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    assert run(session, "x = 20").content == ""
    assert run(session, "open('f', 'w').write('2'); x += 1").content == ""
    assert run(session, "x * int(open('f').read())").content == "42"
    assert run(session, "None").content == ""


def test_sessions_are_apart(sandbox: StatefulSandbox) -> None:
    first, second = sandbox.open(), sandbox.open()
    run(first, "x = 1; open('/tmp/f' if False else 'f', 'w').close()")
    assert run(second, "x").status is CallStatus.TOOL_ERROR
    assert run(second, "import os; os.listdir('.')").content == "[]"


def test_code_out_of_time_is_interrupted_and_the_session_remembers(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    run(session, "x = 5")
    for endless in ("while True: pass", "import time; time.sleep(60)"):
        result = run(session, endless)
        assert (result.status, result.content) == (CallStatus.TIMEOUT, "error: out of time")
        assert run(session, "x").content == "5"


def test_code_that_does_not_let_itself_be_interrupted_loses_the_session(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    run(session, "x = 5; import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    result = run(session, "while True: pass")
    assert result.status is CallStatus.TIMEOUT
    assert result.content == "error: out of time; what the session knew is lost"
    assert run(session, "x").content == "error: NameError: name 'x' is not defined"


def test_an_interpreter_that_reads_no_more_calls_is_the_models_doing(sandbox: StatefulSandbox) -> None:
    """A request longer than a pipe holds, to code that took its reader away: refused in time, and never our failure."""
    session = sandbox.open()
    run(session, "import os, threading, time\nr = os.dup(4)\nos.dup2(os.open('/dev/zero', os.O_RDONLY), 4)")
    results = [run(session, "x = '" + "é" * 15_000 + "'") for _ in range(2)]
    assert all(result.status is not CallStatus.INFRA_ERROR for result in results)
    assert "lost" in results[0].content
    assert results[1].status is CallStatus.OK


def test_an_interpreter_that_ends_itself_says_so_whatever_its_exit_code(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    result = run(session, "import os; os._exit(0)")
    assert (result.status, result.content) == (
        CallStatus.TOOL_ERROR,
        "error: ended with code 0; what the session knew is lost",
    )
    assert run(session, "import sys; sys.exit(0)").status is CallStatus.OK


def test_threads_use_no_cpu_between_calls(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    code = "import threading\nn = 0\ndef count():\n    global n\n    while True: n += 1\n"
    run(session, code + "threading.Thread(target=count, daemon=True).start()")
    first = int(run(session, "n").content)
    time.sleep(1.0)
    # A free thread counts tens of millions in a second; one that is stopped gets only the calls themselves.
    assert int(run(session, "n").content) - first < 5_000_000


def test_a_process_that_a_call_started_ends_with_the_call() -> None:
    sandbox = StatefulSandbox([NOTEBOOK], CONFIG, IsolationLevel.NAMESPACES)
    try:
        session = sandbox.open()
        run(session, "import os, time\nif os.fork() == 0:\n    time.sleep(0.5); open('late', 'w'); os._exit(0)")
        assert run(session, "time.sleep(1); os.listdir('.')").content == "[]"
    finally:
        sandbox.close()


def test_a_fork_continues_where_the_snapshot_was_and_leaves_the_original_alone(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    run(session, "import random; random.seed(3); x = [random.random()]; open('f', 'w').write('a')")
    snapshot = session.snapshot()
    run(session, "x.append(9)")
    fork = sandbox.fork(snapshot)
    assert fork.state_hash() == snapshot.state_hash != session.state_hash()
    assert run(fork, "len(x), open('f').read()").content == "(1, 'a')"
    run(fork, "x.clear()")
    assert run(session, "len(x)").content == "2"


def test_a_fork_that_comes_out_otherwise_is_refused(sandbox: StatefulSandbox) -> None:
    session = sandbox.open()
    run(session, "import os; x = os.urandom(8)")
    with pytest.raises(ForkDiverged, match="1 repeated calls led to the state"):
        sandbox.fork(session.snapshot())


def test_a_full_sandbox_is_a_typed_error_until_a_session_is_closed(sandbox: StatefulSandbox) -> None:
    sessions = [sandbox.open() for _ in range(3)]
    with pytest.raises(SandboxFull, match="all 3 sessions are open"):
        sandbox.open()
    sessions[0].close()
    sessions[0].close()
    sandbox.open()
    with pytest.raises(LeaseLost, match="closed"):
        run(sessions[0], "1")


def test_no_process_is_left_of_closed_sessions() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = children()
    sandbox = StatefulSandbox([NOTEBOOK], CONFIG, IsolationLevel.NAMESPACES)
    for _ in range(3):
        run(sandbox.open(), "x = 1")
    sandbox.close()
    assert children() <= before
