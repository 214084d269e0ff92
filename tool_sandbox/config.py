"""Settings of this floor: what isolated code may use, and how many sessions an actor holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class SandboxConfig(BaseModel):
    """What one run of isolated code may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: Annotated[int, Field(ge=1)] = 2
    """Per process, in whole seconds (the kernel's own unit). This is the verdict on code that does not end."""
    wall_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Backstop for code that sleeps. Well above `cpu_seconds`, so that a busy machine does not change verdicts."""
    memory_bytes: Annotated[int, Field(ge=64 * MIB)] = 512 * MIB
    """Address space of each process; `processes` times this bounds the whole."""
    processes: Annotated[int, Field(ge=1)] = 16
    """Processes and threads at once, the interpreter and two of the sandbox's own included."""
    file_bytes: Annotated[int, Field(ge=4096)] = 16 * MIB
    """Size of each file."""
    tmp_bytes: Annotated[int, Field(ge=4096)] = 64 * MIB
    """Size of /tmp, the only place that can be written."""
    open_files: Annotated[int, Field(ge=16)] = 64
    output_bytes: Annotated[int, Field(ge=64)] = 4096
    """Output kept; what is longer is cut, with a marker."""
    uid: Annotated[int, Field(ge=1)] = 60000
    """User and group that a root launcher becomes. Limits on processes do not bind root."""


class PoolConfig(BaseModel):
    """How sessions are handed out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_sessions: Annotated[int, Field(ge=1)] = 256
    """Open sessions per actor."""
    lease_seconds: Annotated[float, Field(gt=0)] = 300.0
    """A session unused for this long goes back: its trajectory is dead."""
    open_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Deadline for one actor to open a session."""
    call_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Deadline for a call; above `SandboxConfig.wall_seconds`, or slow code would look like a lost sandbox."""
