"""Starts an MCP server inside bubblewrap and carries its messages: one JSON document a line, over standard streams.

Owns the server's process. The server sees /usr, its packages and a small /tmp; it has no network, no environment but
its own, and the sandbox's system-call filter and limits. It dies with this process, and with its transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
import sysconfig
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from tool_sandbox.config import MIB
from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.command import PYTHON, as_user, bubblewrap, find_program, limited, memory_file
from tool_sandbox.isolation.seccomp import assemble
from tool_sandbox.isolation.syscalls import SUPERVISOR
from tool_sandbox.mcp.config import SERVER_LIMITS, McpStdio

MESSAGE_BYTES = 4 * MIB
"""Longest message that is read; a longer one ends the connection."""
KEPT_STDERR_BYTES = 2000
REAP_SECONDS = 5.0
Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
"""From the server, to the server: what the MCP client calls a transport."""
STAGE = "/mnt"
"""Exists everywhere, and is covered in the launcher's own mount namespace alone."""
_FLAGS = ("-S", "-P", "-B", "-u")
"""No site (it follows paths that do not exist inside), no working directory on the path, no bytecode, no buffer."""


class ServerLog:
    """The end of what a server wrote to standard error: the reason, where it did not start. Mutable."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, chunk: bytes) -> None:
        self._kept = (self._kept + chunk)[-KEPT_STDERR_BYTES:]

    def last_line(self) -> str:
        """The last line that is not empty, or nothing."""
        lines = self._kept.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@asynccontextmanager
async def sandboxed_server(server: McpStdio, folder: Path, log: ServerLog) -> AsyncGenerator[Streams]:
    """A transport for the MCP client: the server runs while the context is open, and is killed as it closes.

    Raises:
        IsolationUnavailable: this machine has no sandbox, or a folder of packages cannot be read there.
    """
    process = await _start(server, folder)
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_receive, process, to_client)
            group.start_soon(_send, process, from_client)
            group.start_soon(_listen, process, log)
            try:
                yield from_server, to_server
            finally:
                group.cancel_scope.cancel()
    finally:
        for stream in (to_client, from_server, to_server, from_client):
            stream.close()
        with anyio.CancelScope(shield=True):
            await _end(process)


def server_command(server: McpStdio, folder: Path, filter_fd: int) -> list[str]:
    """The command line of the server in its sandbox. Raises `IsolationUnavailable`."""
    packages = [(folder / each).resolve() for each in server.packages] or [Path(sysconfig.get_path("purelib"))]
    places = {package: f"/packages/{index}" for index, package in enumerate(packages)}
    interpreter, prefix = _interpreter()
    program = (interpreter, *_FLAGS, *server.command[1:]) if server.command[0] == "python" else server.command
    binds = {**places, **prefix}
    _check_folders(binds)
    # A root launcher becomes another user, who cannot go through private folders such as /root.
    hidden = any(_is_private(folder) for folder in binds)
    staged = {folder: f"{STAGE}/{index}" for index, folder in enumerate(binds) if hidden}
    visible = {Path(staged.get(folder, folder)): place for folder, place in binds.items()}
    environment = {"PYTHONPATH": ":".join(places.values()), **server.environment}
    sandbox = bubblewrap(SERVER_LIMITS, filter_fd, environment=environment, read_only=visible)
    return [*_stage(staged), *as_user(SERVER_LIMITS), *sandbox, *limited(SERVER_LIMITS, program)]


def _interpreter() -> tuple[str, dict[Path, str]]:
    """An interpreter that can load this environment's compiled packages, and what must be bound for it.

    The system's, if it is of the same minor version; else the one that runs this code.
    """
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if Path(PYTHON).resolve().name == own:
        return PYTHON, {}
    prefix = Path(sys.base_prefix).resolve()
    bound = {} if prefix.is_relative_to("/usr") else {prefix: str(prefix)}
    return str(prefix / "bin" / own), bound


def _check_folders(folders: Collection[Path]) -> None:
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise IsolationUnavailable(f"MCP server: {', '.join(missing)} is no folder; correct `packages`")
    closed = [str(folder) for folder in folders if os.geteuid() == 0 and not folder.stat().st_mode & stat.S_IXOTH]
    if closed:
        raise IsolationUnavailable(
            f"MCP server: {', '.join(closed)} is closed to the sandbox's user; open it with `chmod o+rx`"
        )


def _is_private(folder: Path) -> bool:
    """Whether the way to a folder is closed to the user that a root launcher becomes."""
    return os.geteuid() == 0 and any(not each.stat().st_mode & stat.S_IXOTH for each in folder.parents)


def _stage(staged: Mapping[Path, str]) -> list[str]:
    """The start of a command line that shows private folders at open places, as long as we still are root."""
    if not staged:
        return []
    binds = [part for folder, place in staged.items() for part in ("--ro-bind", str(folder), place)]
    return [find_program("bwrap"), "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", STAGE, *binds, "--"]


async def _start(server: McpStdio, folder: Path) -> asyncio.subprocess.Process:
    with memory_file(assemble(SUPERVISOR)) as program:
        return await asyncio.create_subprocess_exec(
            *server_command(server, folder, program.fileno()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            cwd="/",
            pass_fds=(program.fileno(),),
            start_new_session=True,
            limit=MESSAGE_BYTES,
        )


async def _receive(
    process: asyncio.subprocess.Process, to_client: MemoryObjectSendStream[SessionMessage | Exception]
) -> None:
    async with to_client:
        async for line in _lines(process.stdout):
            with contextlib.suppress(anyio.BrokenResourceError):
                await to_client.send(_message(line))


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """Lines up to the end of the stream, or up to one that is longer than a message may be."""
    assert stream is not None
    with contextlib.suppress(ValueError):
        while line := await stream.readline():
            yield line


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        # The client reports it; a server that prints to its standard output must not end the session.
        return error


async def _send(process: asyncio.subprocess.Process, from_client: MemoryObjectReceiveStream[SessionMessage]) -> None:
    assert process.stdin is not None
    async with from_client:
        async for message in from_client:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            with contextlib.suppress(ConnectionError):
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()


async def _listen(process: asyncio.subprocess.Process, log: ServerLog) -> None:
    assert process.stderr is not None
    while chunk := await process.stderr.read(KEPT_STDERR_BYTES):
        log.add(chunk)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        # The sandbox dies with its launcher, so this reaches every process in it.
        os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(REAP_SECONDS):
        await process.wait()
