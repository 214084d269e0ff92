"""The HTTP face on a real socket, over the isolation that this repository has had from its beginning."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from tool_sandbox.code_tools import admit
from tool_sandbox.config import MIB, HttpConfig, SandboxConfig
from tool_sandbox.errors import ForkDiverged, LeaseLost
from tool_sandbox.http.keys import ApiKeys
from tool_sandbox.http.run_code import RUN_CODE_TOOL
from tool_sandbox.http.server import listen, server
from tool_sandbox.isolation.python_tool import PYTHON_SPEC, PythonTool
from tool_sandbox.sandbox import CodeTool, Snapshot
from tool_sandbox.tools import IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

LIMITS = SandboxConfig(cpu_seconds=1, wall_seconds=8, memory_bytes=256 * MIB, output_bytes=64 * 1024)
START_SECONDS = 20.0


class ProgramSandbox:
    """`PythonTool` as a tier: every call a fresh bubblewrap, nothing kept between calls."""

    trust = Trust.ISOLATED
    level = IsolationLevel.NAMESPACES

    def __init__(self, config: SandboxConfig = LIMITS, tools: tuple[CodeTool, ...] = (RUN_CODE_TOOL,)) -> None:
        self._python = PythonTool(config)
        self._tools = {tool.spec.name: tool for tool in tools}

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def open(self) -> ProgramSession:
        return ProgramSession(self)

    def fork(self, snapshot: Snapshot) -> ProgramSession:
        if snapshot != Snapshot(b"", "stateless"):
            raise ForkDiverged("not of this tier")
        return self.open()

    def close(self) -> None:
        """Holds no process."""

    def run(self, call: ToolCall) -> ToolResult:
        tool = admit(self._tools, call)
        if isinstance(tool, ToolResult):
            return tool
        return self._python(ToolCall(call.id, PYTHON_SPEC.name, {"code": tool.source(call)}))


class ProgramSession:
    def __init__(self, sandbox: ProgramSandbox) -> None:
        self._sandbox = sandbox
        self._closed = False

    def call(self, call: ToolCall) -> ToolResult:
        if self._closed:
            raise LeaseLost("closed")
        return self._sandbox.run(call)

    def state_hash(self) -> str:
        return "stateless"

    def snapshot(self) -> Snapshot:
        return Snapshot(b"", self.state_hash())

    def close(self) -> None:
        self._closed = True


@contextmanager
def served(app: FastAPI, config: HttpConfig) -> Iterator[str]:
    """Run an application on a free port of loopback; yields its address. Told to stop, it must end in time."""
    running, listener = server(app, config), listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not running.started:
        assert thread.is_alive(), "the server ended before it started"
        assert time.monotonic() < deadline, f"the server did not start in {START_SECONDS} s"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(config.shutdown_seconds + START_SECONDS)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def keys() -> tuple[ApiKeys, str]:
    return ApiKeys.issue("tests")
