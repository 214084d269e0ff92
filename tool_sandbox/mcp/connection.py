"""One connection to an MCP server, for callers that block: an event loop in a thread, a deadline on each wait.

Consumes a server's settings; produces tool specs and tool results. What the server says of a call is the model's; what
happens between the server and us is infrastructure.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mcp import Client
from mcp_types import CallToolResult, ContentBlock, TextContent

from tool_sandbox.errors import InvalidTool, IsolationUnavailable, LeaseLost, SandboxUnavailable
from tool_sandbox.interchange import from_mcp
from tool_sandbox.mcp.config import McpHttp, McpStdio
from tool_sandbox.mcp.sandboxed import ServerLog, sandboxed_server
from tool_sandbox.rendering import OUTPUT_CHARACTERS, canonical_json, capped
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

CLOSE_SECONDS = 10.0
GRACE_SECONDS = 5.0
"""How much longer than the loop's own deadline its caller waits: only a loop that hangs uses it up."""
LISTED_PAGES = 100
"""A server that goes on listing tools for longer than this is refused."""


class McpConnection:
    """A server that answers, from construction to `close`. Calls may come from any thread."""

    def __init__(self, server: McpStdio | McpHttp, folder: Path) -> None:
        """Blocks for `connect_seconds` at most. Relative paths of the server's settings start at `folder`.

        Raises:
            SandboxUnavailable: the server did not start, or did not answer in time.
            InvalidTool: it offers a tool that cannot be used.
            IsolationUnavailable: this machine cannot isolate it.
        """
        self._server = server
        self._folder = folder
        self._log = ServerLog()
        self._specs: tuple[ToolSpec, ...] = ()
        self._client: Client | None = None
        self._closed = False
        self._opened: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"mcp {self._title()}", daemon=True)
        self._thread.start()
        self._await_opened()

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools, as the server listed them when it was connected."""
        return self._specs

    def call(self, call: ToolCall) -> ToolResult:
        """Run one call, whose arguments fit; blocks for `call_seconds` at most.

        Raises:
            LeaseLost: the connection was closed.
        """
        if self._closed:
            raise LeaseLost(f"MCP server {self._title()}: the connection was closed; open another session")
        started = time.monotonic()
        try:
            answer = self._submit(self._ask(call)).result(self._server.call_seconds + GRACE_SECONDS)
            status = CallStatus.TOOL_ERROR if answer.is_error else CallStatus.OK
            content = capped(_rendered(answer), OUTPUT_CHARACTERS)
        except Exception as error:  # noqa: BLE001 - whatever stands between the server and us is infrastructure
            status, content = CallStatus.INFRA_ERROR, f"error: {self._failure(error)}"
        wall = time.monotonic() - started
        return ToolResult(call.id, status, content, wall_seconds=wall, isolation=self._isolation())

    def close(self) -> None:
        """End the connection, and with it the server's process where we started it. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        # The loop is gone already where the server was lost.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_SECONDS + GRACE_SECONDS)

    def _await_opened(self) -> None:
        try:
            self._opened.result(self._server.connect_seconds + CLOSE_SECONDS + GRACE_SECONDS)
        except (InvalidTool, IsolationUnavailable):
            self.close()
            raise
        except Exception as error:
            self.close()
            raise SandboxUnavailable(
                f"MCP server {self._title()}: did not start ({self._failure(error)}); run its command by hand, and "
                f"raise connect_seconds ({self._server.connect_seconds:g}) if it is slow"
            ) from error

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        """Connect, be there until told to stop, disconnect: all in one task, as anyio's scopes demand."""
        try:
            async with asyncio.timeout(self._server.connect_seconds) as deadline, self._new_client() as client:
                self._specs = await _listed(client, self._trust())
                self._client = client
                deadline.reschedule(None)
                self._opened.set_result(None)
                await self._stop.wait()
                deadline.reschedule(self._loop.time() + CLOSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - the thread that waits for the connection raises it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        # A connection that is lost later shows by its calls, which find nobody and say so.
        if not self._opened.done():
            self._opened.set_exception(_first_cause(error))

    def _new_client(self) -> Client:
        if isinstance(self._server, McpHttp):
            return Client(self._server.url, read_timeout_seconds=self._server.call_seconds)
        transport = sandboxed_server(self._server, self._folder, self._log)
        return Client(transport, read_timeout_seconds=self._server.call_seconds)

    def _submit(self, request: Coroutine[Any, Any, CallToolResult]) -> Future[CallToolResult]:
        try:
            return asyncio.run_coroutine_threadsafe(request, self._loop)
        except RuntimeError:
            request.close()
            raise

    async def _ask(self, call: ToolCall) -> CallToolResult:
        assert self._client is not None
        async with asyncio.timeout(self._server.call_seconds):
            return await self._client.call_tool(call.name, dict(call.arguments))

    def _failure(self, error: Exception) -> str:
        cause = _first_cause(error)
        told = f"{type(cause).__name__}: {cause}".removesuffix(": ")
        last = self._log.last_line()
        return f"{told}; it last wrote {last!r}" if last else told

    def _title(self) -> str:
        return self._server.url if isinstance(self._server, McpHttp) else " ".join(self._server.command)

    def _trust(self) -> Trust:
        return Trust.REMOTE if isinstance(self._server, McpHttp) else Trust.STATEFUL

    def _isolation(self) -> IsolationLevel:
        return IsolationLevel.NONE if isinstance(self._server, McpHttp) else IsolationLevel.NAMESPACES


async def _listed(client: Client, trust: Trust) -> tuple[ToolSpec, ...]:
    """Every tool, page by page. Raises `InvalidTool`."""
    specs: list[ToolSpec] = []
    cursor: str | None = None
    for _ in range(LISTED_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools = (tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in page.tools)
        specs += [from_mcp(tool, trust=trust) for tool in tools]
        cursor = page.next_cursor
        if cursor is None:
            return tuple(specs)
    raise InvalidTool(f"MCP server: listed {len(specs)} tools on {LISTED_PAGES} pages without an end; mend the server")


def _rendered(answer: CallToolResult) -> str:
    """The text of the answer; its structure, as canonical JSON, where there is no text."""
    if not answer.content and answer.structured_content is not None:
        return canonical_json(answer.structured_content)
    return "\n".join(_block(block) for block in answer.content)


def _block(block: ContentBlock) -> str:
    return block.text if isinstance(block, TextContent) else f"[{block.type}]"


def _first_cause(error: BaseException) -> Exception:
    """anyio wraps what happened in its tasks, at times more than once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
