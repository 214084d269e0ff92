"""Settings of an MCP server: how it is started or reached, and how long it may take. Needs no package `mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tool_sandbox.config import MIB, SandboxConfig

SERVER_LIMITS = SandboxConfig(cpu_seconds=600, memory_bytes=1024 * MIB, processes=32, open_files=128)
"""What a server in the sandbox may use over its whole life."""


class _Deadlines(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    connect_seconds: Annotated[float, Field(gt=0)] = 20.0
    """To start, shake hands and list the tools. Below the pool's `open_seconds`."""
    call_seconds: Annotated[float, Field(gt=0)] = 30.0
    """For one call. Below the pool's `call_seconds`."""


class McpStdio(_Deadlines):
    """A server that is started inside the sandbox, without a network, and spoken to over its standard streams."""

    kind: Literal["mcp"] = "mcp"
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """Program and arguments. `python` is an interpreter that can import `packages`; others must lie under /usr."""
    packages: tuple[Path, ...] = ()
    """Folders that the server imports from, bound read-only; relative ones to the file that says so. Empty means the
    packages of this environment."""
    environment: dict[str, str] = {}
    """All that the server sees of an environment, besides PYTHONPATH."""


class McpHttp(_Deadlines):
    """A server that runs elsewhere and speaks streamable HTTP."""

    kind: Literal["mcp_http"] = "mcp_http"
    url: Annotated[str, Field(pattern=r"^https?://")]
