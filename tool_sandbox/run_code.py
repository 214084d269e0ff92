"""SandboxFusion's `POST /run_code`: what it takes and what it answers.

Owns the wire. `remote` speaks it as a client, `http.run_code` as a server. It is another project's protocol, so unknown
fields are ignored, as the service itself does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PATH = "/run_code"
PYTHON = "python"


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, validate_by_name=True, allow_inf_nan=False)


class RunStatus(StrEnum):
    """The verdict on a request."""

    SUCCESS = "Success"
    FAILED = "Failed"
    """A command ended with another code than 0, or was out of time."""
    SANDBOX_ERROR = "SandboxError"
    """The service's own failure; says nothing of the code."""


class CommandStatus(StrEnum):
    """How one command, compiling or running, ended."""

    FINISHED = "Finished"
    ERROR = "Error"
    TIME_LIMIT_EXCEEDED = "TimeLimitExceeded"


class RunCodeRequest(_Wire):
    """One program, and what it may use."""

    code: str
    language: str
    compile_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds."""
    run_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds of wall-clock time."""
    memory_limit_mb: Annotated[int, Field(alias="memory_limit_MB")] = -1
    """-1 leaves it to the service."""
    stdin: str | None = None
    files: dict[str, str | None] = {}
    """Written before the program runs: base64 by path, relative to the folder that it runs in."""
    fetch_files: tuple[str, ...] = ()
    """Paths to read after it ran."""


class CommandResult(_Wire):
    """How one command ended, and what it wrote."""

    status: CommandStatus
    execution_time: float | None = None
    """Seconds of wall-clock time."""
    return_code: int | None = None
    """None where the command was stopped."""
    stdout: str | None = None
    stderr: str | None = None


class RunCodeResponse(_Wire):
    """The answer to a request."""

    status: RunStatus
    message: str
    """Why the service failed; empty otherwise."""
    compile_result: CommandResult | None = None
    run_result: CommandResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = {}
    """Base64 by path, of those `fetch_files` that exist."""
