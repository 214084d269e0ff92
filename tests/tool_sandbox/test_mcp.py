"""MCP servers as toolsets: a published one in the sandbox, one that misbehaves there, and one over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from tests.tool_sandbox.shop import write_tasks
from tool_sandbox.errors import (
    InvalidTool,
    InvalidToolset,
    IsolationUnavailable,
    LeaseLost,
    NoSuchTask,
    SandboxUnavailable,
)
from tool_sandbox.jsonl import JsonlToolset
from tool_sandbox.mcp import sandboxed
from tool_sandbox.mcp.config import McpHttp, McpStdio
from tool_sandbox.mcp.connection import McpConnection
from tool_sandbox.mcp.toolset import McpToolset
from tool_sandbox.rendering import CUT_MARKER, OUTPUT_CHARACTERS
from tool_sandbox.session import Forkable, Session, Toolset
from tool_sandbox.tasks import GroundTruth, Split, Task
from tool_sandbox.tools import CallStatus, IsolationLevel, Progress, ToolCall, ToolResult, Trust

PROBE = Path(__file__).parent / "packages" / "probe"
TIME_SERVER = {"kind": "mcp", "command": ["python", "-m", "mcp_server_time", "--local-timezone", "UTC"]}
TOKYO = {"source_timezone": "Asia/Tokyo", "time": "09:00", "target_timezone": "Asia/Kolkata"}


def call(connection: McpConnection, name: str, /, **arguments: Any) -> ToolResult:
    return connection.call(ToolCall("c", name, arguments))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the sandbox's user can read, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="steptool-mcp-") as made:
        path = Path(made)
        path.chmod(0o755)
        shutil.copy(PROBE / "probe_server.py", path)
        yield path


def probe(folder: Path, **settings: Any) -> McpConnection:
    packages = (Path(sysconfig.get_path("purelib")), Path())
    command = ("python", "-m", "probe_server", *settings.pop("arguments", ()))
    return McpConnection(McpStdio(command=command, packages=packages, **settings), folder)


@pytest.fixture(scope="module")
def time_session() -> Iterator[Session]:
    toolset: Toolset = McpToolset(McpStdio.model_validate(TIME_SERVER), Path("/"), "time")
    task = Task("t", "time", "?", ("convert_time",), GroundTruth(), "all", Split.TRAIN, {})
    session = toolset.open(task)
    yield session
    session.close()


def test_a_published_server_runs_in_the_sandbox(time_session: Session) -> None:
    result = time_session.call(ToolCall("c", "convert_time", TOKYO)).result
    assert (result.call_id, result.status, result.isolation) == ("c", CallStatus.OK, IsolationLevel.NAMESPACES)
    told = json.loads(result.content)
    assert told["target"]["datetime"][11:] == "05:30:00+05:30"
    assert told["time_difference"] == "-3.5h"
    assert result.wall_seconds > 0


def test_the_models_errors_are_told_from_the_servers(time_session: Session) -> None:
    wrong = time_session.call(ToolCall("c", "convert_time", TOKYO | {"target_timezone": "Asia/Nowhere"})).result
    assert wrong.status is CallStatus.TOOL_ERROR
    assert "Asia/Nowhere" in wrong.content
    missing = time_session.call(ToolCall("c", "convert_time", {"time": "09:00"})).result
    assert missing.status is CallStatus.INVALID_ARGUMENTS
    assert missing.content == "error: convert_time needs source_timezone and target_timezone"
    half = time_session.call(ToolCall("c", "convert_time", TOKYO | {"time": "\ud800"})).result
    assert half.status is CallStatus.INVALID_ARGUMENTS
    assert half.content.endswith("nested too deep, or hold half a character")
    hidden = time_session.call(ToolCall("c", "get_current_time", {"timezone": "UTC"})).result
    assert (hidden.status, hidden.content) == (CallStatus.UNKNOWN_TOOL, "error: no tool get_current_time")


def test_a_server_has_tools_and_neither_tasks_nor_a_state_that_shows(time_session: Session) -> None:
    toolset = McpToolset(McpStdio.model_validate(TIME_SERVER), Path("/"), "time")
    assert [(spec.name, spec.trust, spec.read_only) for spec in toolset.specs()] == [
        ("get_current_time", Trust.STATEFUL, True),
        ("convert_time", Trust.STATEFUL, True),
    ]
    assert toolset.specs() is toolset.specs()
    assert (toolset.levels(), toolset.demonstrator(0.0, 0)) == ((), None)
    with pytest.raises(NoSuchTask, match="an MCP server has no tasks; give it some in a JSONL file"):
        toolset.sample_task(Split.TRAIN, "all", 0)
    assert time_session.state_hash() is None
    assert not isinstance(time_session, Forkable)


def test_a_file_of_tasks_uses_a_server(tmp_path: Path) -> None:
    gold = [{"name": "convert_time", "arguments": TOKYO}]
    line = {"id": "t", "prompt": "9:00 in Tokyo, in Kolkata?", "toolset": TIME_SERVER, "answer": "05:30", "calls": gold}
    toolset = JsonlToolset(write_tasks(tmp_path, line))
    assert toolset.tasks[0].tools == ("get_current_time", "convert_time")
    session = toolset.open(toolset.tasks[0])
    try:
        assert session.call(ToolCall("c", "convert_time", TOKYO)).progress == Progress(1, 0)
        assert (session.verdict("05:30"), session.verdict("5"), session.state_hash()) == (True, False, None)
        assert not isinstance(session, Forkable)
    finally:
        session.close()


def test_without_the_package_mcp_a_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("toolset", "connection", "sandboxed"):
        monkeypatch.delitem(sys.modules, f"tool_sandbox.mcp.{module}")
    monkeypatch.setitem(sys.modules, "mcp", None)
    path = write_tasks(tmp_path, {"id": "t", "prompt": "?", "toolset": TIME_SERVER, "answer": "1"})
    with pytest.raises(InvalidToolset, match=r"tasks.jsonl:1: toolset: an MCP server needs .*install steptool\[mcp\]"):
        JsonlToolset(path)


def test_a_server_reaches_neither_files_nor_network_nor_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder / "secret"
    secret.write_text("treasure")
    secret.chmod(0o644)
    monkeypatch.setenv("STEPTOOL_TEST_SECRET", "treasure")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # The positive control: outside, the port answers.
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        connection = probe(folder, environment={"LANG": "C.UTF-8"})
        try:
            assert call(connection, "read", path="/packages/1/secret").content == "treasure"
            results = [
                call(connection, "read", path=str(secret)),
                call(connection, "read", path="/etc/hostname"),
                call(connection, "connect", port=port),
                call(connection, "write", path="/packages/1/secret"),
                call(connection, "write", path="/usr/secret"),
            ]
            assert [result.status for result in results] == [CallStatus.TOOL_ERROR] * 5
            assert call(connection, "write", path="/tmp/note").content == "written"
            seen = json.loads(call(connection, "environment").content)
        finally:
            connection.close()
    assert {"LANG", "PYTHONPATH"} <= set(seen["own"])
    assert "STEPTOOL_TEST_SECRET" not in seen["own"]
    assert "treasure" not in seen["first"]
    assert secret.read_text() == "treasure"


def test_a_server_that_says_read_only_is_believed_and_one_that_says_nothing_is_not(folder: Path) -> None:
    connection = probe(folder)
    connection.close()
    assert {spec.name: spec.read_only for spec in connection.specs}["read"] is True
    assert {spec.name: spec.read_only for spec in connection.specs}["write"] is False


def test_a_call_that_takes_too_long_is_infrastructure_and_the_next_one_works(folder: Path) -> None:
    connection = probe(folder, call_seconds=1.0)
    try:
        late = call(connection, "sleep", seconds=60)
        assert (late.status, late.content) == (CallStatus.INFRA_ERROR, "error: TimeoutError")
        assert 1.0 <= late.wall_seconds < 10
        assert call(connection, "sleep", seconds=0).content == "awake"
    finally:
        connection.close()


def test_a_server_that_dies_is_infrastructure_until_the_session_ends(folder: Path) -> None:
    connection = probe(folder)
    assert call(connection, "die").status is CallStatus.INFRA_ERROR
    assert call(connection, "repeat", count=1).status is CallStatus.INFRA_ERROR
    connection.close()


def test_what_is_no_message_is_passed_over(folder: Path) -> None:
    connection = probe(folder)
    try:
        assert call(connection, "chatter").content == "done"
        assert call(connection, "repeat", count=3).content == "xxx"
    finally:
        connection.close()


def test_long_output_is_cut_and_a_message_without_bounds_ends_the_connection(folder: Path) -> None:
    connection = probe(folder)
    try:
        assert call(connection, "repeat", count=9000).content == "x" * OUTPUT_CHARACTERS + CUT_MARKER
        assert call(connection, "repeat", count=6 * 2**20).status is CallStatus.INFRA_ERROR
        assert call(connection, "repeat", count=1).status is CallStatus.INFRA_ERROR
    finally:
        connection.close()


def running(marker: str) -> list[str]:
    """Processes with the marker in their command line."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in entry.read_text(errors="replace"):
                found.append(entry.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def gone(marker: str) -> bool:
    deadline = time.monotonic() + 5
    while running(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(marker)


def test_closing_twice_leaves_no_process_and_no_thread(folder: Path) -> None:
    marker = f"--probe-{uuid.uuid4().hex}"
    threads = threading.active_count()
    connection = probe(folder, arguments=(marker,))
    # bwrap outside, bwrap and the server inside.
    assert len(running(marker)) >= 2
    connection.close()
    connection.close()
    assert gone(marker)
    assert threading.active_count() <= threads
    with pytest.raises(LeaseLost, match="the connection was closed; open another session"):
        call(connection, "repeat", count=1)


def test_a_server_that_does_not_start_says_why_and_leaves_no_process(folder: Path) -> None:
    marker = f"--probe-{uuid.uuid4().hex}"
    server = McpStdio(command=("python", "-m", "no_such_server", marker))
    with pytest.raises(SandboxUnavailable, match=r"did not start .*No module named no_such_server.*run its command"):
        McpConnection(server, folder)
    assert gone(marker)


def test_a_server_that_never_answers_is_given_up_in_time(folder: Path) -> None:
    marker = f"probe-{uuid.uuid4().hex}"
    started = time.monotonic()
    with pytest.raises(SandboxUnavailable, match=r"did not start \(TimeoutError"):
        McpConnection(McpStdio(command=("/usr/bin/tail", "-f", "/dev/null", f"/{marker}"), connect_seconds=1.0), folder)
    assert time.monotonic() - started < 10
    assert gone(marker)


def test_packages_may_lie_in_a_private_folder(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    packages = private / "packages"
    packages.mkdir(mode=0o755)
    shutil.copy(PROBE / "probe_server.py", packages)
    marker = f"--probe-{uuid.uuid4().hex}"
    connection = probe(packages, arguments=(marker,))
    try:
        assert "def chatter" in call(connection, "read", path="/packages/1/probe_server.py").content
        assert call(connection, "read", path=str(packages / "probe_server.py")).status is CallStatus.TOOL_ERROR
        assert call(connection, "write", path="/packages/1/note").status is CallStatus.TOOL_ERROR
    finally:
        connection.close()
    assert gone(marker)


def test_a_system_python_of_another_version_gives_way_to_our_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = probe(folder)
    assert call(connection, "read", path="/proc/self/cmdline").content.startswith("/usr/bin/python3\0")
    connection.close()
    monkeypatch.setattr(sandboxed, "PYTHON", "/usr/bin/env")
    connection = probe(folder)
    interpreter = call(connection, "read", path="/proc/self/cmdline").content.partition("\0")[0]
    connection.close()
    assert interpreter.startswith(sys.base_prefix)
    assert Path(interpreter).name == f"python{sys.version_info.major}.{sys.version_info.minor}"


def test_packages_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(IsolationUnavailable, match=r"nowhere is no folder; correct `packages`"):
        McpConnection(McpStdio(command=("python",), packages=(Path("nowhere"),)), folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only a root launcher becomes another user")
def test_a_folder_of_packages_that_is_closed_itself_is_refused(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    with pytest.raises(
        IsolationUnavailable, match=r"closed is closed to the sandbox's user; open it with `chmod o\+rx`"
    ):
        McpConnection(McpStdio(command=("python",), packages=(Path("closed"),)), folder)


@contextmanager
def served(server: MCPServer) -> Iterator[str]:
    """The URL of a server on the loopback interface, made with the `mcp` package itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        runner = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error", lifespan="on"))
        thread = threading.Thread(target=runner.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            runner.should_exit = True
            thread.join(20)


def weigh(item: str) -> dict[str, float]:
    """Weight of an item."""
    if item != "book":
        raise ToolError(f"no {item} here")
    return {"kilos": 0.5}


def test_a_server_over_http_is_called_like_any_other() -> None:
    server = MCPServer("shelf")
    server.tool()(weigh)
    with served(server) as url:
        connection = McpConnection(McpHttp(url=url), Path("/"))
        assert [(spec.signature(), spec.trust) for spec in connection.specs] == [("weigh(item)", Trust.REMOTE)]
        good = call(connection, "weigh", item="book")
        assert (good.status, json.loads(good.content)) == (CallStatus.OK, {"kilos": 0.5})
        bad = call(connection, "weigh", item="cloud")
        assert bad.status is CallStatus.TOOL_ERROR
        assert "no cloud here" in bad.content
        connection.close()
        connection.close()


def test_a_server_over_http_that_goes_away_is_infrastructure() -> None:
    server = MCPServer("shelf")
    server.tool()(weigh)
    with served(server) as url:
        connection = McpConnection(McpHttp(url=url, call_seconds=5.0), Path("/"))
        assert call(connection, "weigh", item="book").status is CallStatus.OK
    assert call(connection, "weigh", item="book").status is CallStatus.INFRA_ERROR
    connection.close()


def test_a_server_with_a_tool_that_cannot_be_named_is_refused() -> None:
    server = MCPServer("shelf", log_level="CRITICAL")
    server.tool(name="rm -rf")(weigh)
    with served(server) as url, pytest.raises(InvalidTool, match="tool 'rm -rf': expected a name"):
        McpConnection(McpHttp(url=url), Path("/"))


def test_a_url_that_nobody_answers_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SandboxUnavailable, match="did not start"):
            McpConnection(McpHttp(url=f"http://127.0.0.1:{port}/mcp", connect_seconds=1.0), Path("/"))
    with pytest.raises(SandboxUnavailable, match="did not start"):
        McpConnection(McpHttp(url=f"http://127.0.0.1:{port}/mcp", connect_seconds=5.0), Path("/"))
