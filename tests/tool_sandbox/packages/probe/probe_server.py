"""An MCP server that does what a server should not: the tests start it inside the sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import socket

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("probe")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def read(path: str) -> str:
    """Read a file."""
    with open(path) as file:
        return file.read()


@server.tool()
def write(path: str) -> str:
    """Write a file."""
    with open(path, "w") as file:
        file.write("here")
    return "written"


@server.tool()
def connect(port: int) -> str:
    """Connect to the loopback interface."""
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        return "connected"


@server.tool()
def environment() -> str:
    """Show the environment, and that of the first process."""
    with open("/proc/1/environ", "rb") as file:
        return json.dumps({"own": sorted(os.environ), "first": file.read().decode()})


@server.tool()
async def sleep(seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return "awake"


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


@server.tool()
def chatter() -> str:
    """Write to standard output what is no message."""
    os.write(1, b"loading...\n{}\n")
    return "done"


@server.tool()
def repeat(count: int) -> str:
    """A letter, many times."""
    return "x" * count


if __name__ == "__main__":
    server.run()
