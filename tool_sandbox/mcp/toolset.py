"""An MCP server as a toolset: its tools, and sessions that each have a connection, hence a server, of their own.

It has no tasks. A JSONL file gives it some (see `tool_sandbox.jsonl`), or its sessions are used without any.
"""

from __future__ import annotations

import threading
from pathlib import Path

from pydantic_core import to_json

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.errors import NoSuchTask
from tool_sandbox.mcp.config import McpHttp, McpStdio
from tool_sandbox.mcp.connection import McpConnection
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult, ToolSpec


class McpToolset:
    """The tools of one server. Safe to use from many threads."""

    def __init__(self, server: McpStdio | McpHttp, folder: Path, name: str = "mcp") -> None:
        """Relative paths of the server's settings start at `folder`. Nothing is started yet."""
        self.name = name
        self._server = server
        self._folder = folder
        self._specs: tuple[ToolSpec, ...] | None = None
        self._lock = threading.Lock()

    def specs(self) -> tuple[ToolSpec, ...]:
        """The server's tools; asks it the first time. Raises what `McpConnection` raises."""
        with self._lock:
            if self._specs is None:
                connection = McpConnection(self._server, self._folder)
                self._specs = connection.specs
                connection.close()
            return self._specs

    def levels(self) -> tuple[str, ...]:
        return ()

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """Raises `NoSuchTask`: a server has tools and no tasks."""
        raise NoSuchTask(f"toolset {self.name!r}: an MCP server has no tasks; give it some in a JSONL file")

    def demonstrator(self, noise: float, seed: int) -> None:
        """Nobody demonstrates."""
        return

    def open(self, task: Task) -> McpSession:
        """A session with a server of its own. Raises what `McpConnection` raises."""
        return McpSession(McpConnection(self._server, self._folder), task.tools)


class McpSession:
    """One trajectory's connection. The server's state cannot be seen from outside, so it has no hash and no fork."""

    def __init__(self, connection: McpConnection, offered: tuple[str, ...]) -> None:
        """Takes the connection over. `offered`: names of the tools that may be called."""
        self._connection = connection
        self._specs = {spec.name: spec for spec in connection.specs if spec.name in offered}

    def call(self, call: ToolCall) -> CallOutcome:
        return CallOutcome(self._run(call))

    def state_hash(self) -> None:
        return None

    def close(self) -> None:
        self._connection.close()

    def _run(self, call: ToolCall) -> ToolResult:
        spec = self._specs.get(call.name)
        if spec is None:
            return ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:40]}")
        complaint = check_arguments(spec, call) or _unsendable(call)
        return self._connection.call(call) if complaint is None else invalid_arguments(call, complaint)


def _unsendable(call: ToolCall) -> str | None:
    """The complaint about arguments that cannot be put into a message: the model's error, not the connection's."""
    try:
        # Three deep, as they are in a request.
        to_json([[[call.arguments]]])
    except ValueError:
        return f"{call.name}: arguments are nested too deep, or hold half a character"
    return None
