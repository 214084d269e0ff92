"""One suite over the tiers that run code. A tier is one entry of `TIERS`, with what it promises beyond the common part.

Where a probe would pass for the wrong reason (a file that nobody could read, a port that nobody listens at), the test
first shows that the same thing works outside.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.tool_sandbox.served import ProgramSandbox, keys, served
from tool_sandbox.client import LocalSandbox
from tool_sandbox.config import HttpConfig, LanguageConfig, PoolConfig, RemoteConfig
from tool_sandbox.errors import ForkDiverged, LeaseLost
from tool_sandbox.http.app import build_app
from tool_sandbox.isolation.python_tool import CUT_MARKER
from tool_sandbox.language import LanguageSandbox
from tool_sandbox.remote import RemoteSandbox
from tool_sandbox.sandbox import Sandbox, SandboxSession, Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult

OUTPUT_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Tier:
    """How to start a tier, and what it promises."""

    name: str
    start: Callable[[], AbstractContextManager[Sandbox]]
    """A sandbox that keeps `OUTPUT_BYTES` of output and ends endless code after a second or two."""
    tool: str
    """The tool that takes Python as `code`."""
    keeps_variables: bool
    """From one call of a session to the next."""


@contextmanager
def language() -> Iterator[Sandbox]:
    sandbox = LanguageSandbox(LanguageConfig(cpu_seconds=1, output_bytes=OUTPUT_BYTES))
    yield sandbox
    sandbox.close()


@contextmanager
def remote() -> Iterator[Sandbox]:
    """The client over real HTTP to our own service."""
    config, (known, key) = HttpConfig(), keys()
    with served(build_app(config, LocalSandbox(PoolConfig()), known, ProgramSandbox()), config) as url:
        sandbox = RemoteSandbox(
            RemoteConfig(url=url, output_bytes=OUTPUT_BYTES, level=IsolationLevel.NAMESPACES), key=key
        )
        yield sandbox
        sandbox.close()


TIERS = [
    Tier("language", language, "code", keeps_variables=True),
    Tier("remote", remote, "python", keeps_variables=False),
]


@dataclass(frozen=True, slots=True)
class Running:
    """A tier that was started."""

    tier: Tier
    sandbox: Sandbox

    def run(self, session: SandboxSession, code: str) -> ToolResult:
        return session.call(ToolCall("c7", self.tier.tool, {"code": code}))

    def once(self, code: str) -> ToolResult:
        session = self.sandbox.open()
        try:
            return self.run(session, code)
        finally:
            session.close()


@pytest.fixture(scope="module", params=TIERS, ids=lambda tier: tier.name)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with request.param.start() as sandbox:
        yield Running(request.param, sandbox)


def needs_variables(running: Running) -> None:
    if not running.tier.keeps_variables:
        pytest.skip("no call of this tier sees another")


def test_what_the_code_prints_is_the_result(running: Running) -> None:
    result = running.once("print(6 * 7)\nprint('é')")
    assert (result.status, result.content, result.call_id) == (CallStatus.OK, "42\né", "c7")
    assert result.isolation is running.sandbox.level
    assert 0 < result.wall_seconds < 30


def test_every_tool_of_a_tier_declares_its_trust(running: Running) -> None:
    assert {spec.trust for spec in running.sandbox.specs()} == {running.sandbox.trust}
    assert running.tier.tool in {spec.name for spec in running.sandbox.specs()}


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("print('so far')\n1 / 0", "so far\nerror: ZeroDivisionError: division by zero"),
        ("raise ValueError('no lamp')", "error: ValueError: no lamp"),
    ],
)
def test_an_exception_is_a_tool_error_with_its_message_after_the_output(
    running: Running, code: str, content: str
) -> None:
    result = running.once(code)
    assert (result.status, result.content) == (CallStatus.TOOL_ERROR, content)


def test_code_that_does_not_parse_is_a_tool_error(running: Running) -> None:
    result = running.once("def f(:")
    assert result.status is CallStatus.TOOL_ERROR
    assert "SyntaxError" in result.content


def test_a_tool_that_is_not_there_is_unknown(running: Running) -> None:
    session = running.sandbox.open()
    result = session.call(ToolCall("c", "teleport", {"code": "print(1)"}))
    assert (result.status, result.content) == (CallStatus.UNKNOWN_TOOL, "error: no tool teleport")


@pytest.mark.parametrize("arguments", [{}, {"code": 7}, {"code": ""}, {"code": "1", "more": 1}])
def test_arguments_that_do_not_fit_are_never_run(running: Running, arguments: dict[str, object]) -> None:
    result = running.sandbox.open().call(ToolCall("c", running.tier.tool, arguments))
    assert result.status is CallStatus.INVALID_ARGUMENTS
    assert result.content.startswith("error: ")


def test_endless_code_is_out_of_time_and_the_session_goes_on(running: Running) -> None:
    session = running.sandbox.open()
    result = running.run(session, "print('on my way')\nwhile True: pass")
    assert result.status is CallStatus.TIMEOUT
    assert result.content.endswith("error: out of time")
    assert running.run(session, "print(1)").content == "1"


def test_output_above_the_limit_is_cut_with_a_marker(running: Running) -> None:
    exact = running.once(f"print('x' * {OUTPUT_BYTES - 1})")
    assert exact.content == "x" * (OUTPUT_BYTES - 1)
    result = running.once("for i in range(3000): print('x' * 9)")
    assert result.status is CallStatus.OK
    assert result.content == ("x" * 9 + "\n") * (OUTPUT_BYTES // 10) + CUT_MARKER


def test_a_memory_bomb_is_out_of_memory_and_the_session_goes_on(running: Running) -> None:
    session = running.sandbox.open()
    result = running.run(session, "x = []\nwhile True: x.append('y' * 1000000 + str(len(x)))")
    assert (result.status, result.content) == (CallStatus.OUT_OF_MEMORY, "error: out of memory")
    assert running.run(session, "print(1)").content == "1"


def test_a_file_of_the_host_is_never_read(running: Running, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret of the host")
    read = "print(open('{}').read())"
    assert "root:" in Path("/etc/passwd").read_text()
    for path, content in ((str(secret), "secret of the host"), ("/etc/passwd", "root:")):
        result = running.once(read.format(path))
        assert result.status in (CallStatus.DENIED, CallStatus.TOOL_ERROR)
        assert content not in result.content


def test_a_listener_of_the_host_is_never_reached(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            listener.accept()[0].close()
        result = running.once(f"import socket\nprint(socket.create_connection(('127.0.0.1', {port}), 2))")
        assert result.status in (CallStatus.DENIED, CallStatus.TOOL_ERROR)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_environment_of_the_host_is_never_seen(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPTOOL_TEST_SECRET", "hush")
    result = running.once("import os\nprint(os.environ.get('STEPTOOL_TEST_SECRET'))")
    assert "hush" not in result.content


def test_sessions_are_apart(running: Running) -> None:
    first, second = running.sandbox.open(), running.sandbox.open()
    running.run(first, "x = 'first'")
    result = running.run(second, "print(x)")
    assert result.status is CallStatus.TOOL_ERROR
    assert "NameError" in result.content


def test_variables_stay_exactly_where_a_tier_says_so(running: Running) -> None:
    session = running.sandbox.open()
    running.run(session, "x = 41\ndef more(n): return n + 1")
    result = running.run(session, "print(more(x))")
    assert (result.status is CallStatus.OK) is running.tier.keeps_variables
    assert (result.content == "42") is running.tier.keeps_variables


def test_a_fork_continues_at_the_state_and_leaves_the_original_alone(running: Running) -> None:
    needs_variables(running)
    original = running.sandbox.open()
    running.run(original, "x = [1]")
    snapshot, at_snapshot = original.snapshot(), original.state_hash()
    running.run(original, "x.append(2)")
    fork, twin = running.sandbox.fork(snapshot), running.sandbox.fork(snapshot)
    assert fork.state_hash() == snapshot.state_hash == at_snapshot != original.state_hash()
    assert running.run(fork, "x.append(3)\nprint(x)").content == "[1, 3]"
    assert running.run(original, "print(x)").content == "[1, 2]"
    assert running.run(twin, "print(x)").content == "[1]"


def test_a_fork_outlives_the_session_that_it_came_from(running: Running) -> None:
    original = running.sandbox.open()
    snapshot = original.snapshot()
    original.close()
    fork = running.sandbox.fork(snapshot)
    assert fork.state_hash() == snapshot.state_hash
    assert running.run(fork, "print(6 * 7)").content == "42"


def test_equal_histories_have_equal_states_and_others_have_not(running: Running) -> None:
    first, second = running.sandbox.open(), running.sandbox.open()
    assert first.state_hash() == second.state_hash()
    for session in (first, second):
        running.run(session, "x = [1]\nprint(x)")
    assert first.state_hash() == second.state_hash()
    running.run(first, "x = 2")
    assert (first.state_hash() == second.state_hash()) is not running.tier.keeps_variables


def test_a_snapshot_that_is_not_what_it_says_is_refused(running: Running) -> None:
    session = running.sandbox.open()
    running.run(session, "x = 1")
    with pytest.raises(ForkDiverged):
        running.sandbox.fork(replace(session.snapshot(), state_hash="0" * 64))
    with pytest.raises(ForkDiverged):
        running.sandbox.fork(Snapshot(b"of another tier", "1" * 64))


def test_a_closed_session_is_a_lost_lease(running: Running) -> None:
    session = running.sandbox.open()
    session.close()
    session.close()
    with pytest.raises(LeaseLost):
        running.run(session, "print(1)")


def test_closing_a_tier_ends_its_sessions_and_may_be_done_twice(running: Running) -> None:
    with running.tier.start() as sandbox:
        session = sandbox.open()
        sandbox.close()
        sandbox.close()
        with pytest.raises(LeaseLost):
            running.run(session, "print(1)")


def test_two_threads_with_two_sessions_do_not_mix_results(running: Running) -> None:
    printed: dict[str, list[str]] = {"a": [], "b": []}

    def work(name: str) -> None:
        session = running.sandbox.open()
        for number in range(10):
            printed[name].append(running.run(session, f"print('{name}' * {number + 1})").content)

    threads = [threading.Thread(target=work, args=(name,)) for name in printed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert printed == {name: [name * (number + 1) for number in range(10)] for name in ("a", "b")}
