"""Settings of this floor: what each tier's code may use, how many sessions an actor holds, and the HTTP face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tool_sandbox.tasks import Split
from tool_sandbox.tools import IsolationLevel

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


class LanguageConfig(BaseModel):
    """What one call of the language tier (T1) may use, and how many workers serve all sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: Annotated[int, Field(ge=1)] = 2
    """Of the worker, in whole seconds (the kernel's own unit), up to one more. This is the verdict on endless code."""
    wall_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Backstop. The clock stands while a host tool runs."""
    memory_bytes: Annotated[int, Field(ge=MIB)] = 64 * MIB
    """Heap of a session, as the interpreter counts it."""
    recursion: Annotated[int, Field(ge=10)] = 500
    """Depth of calls inside the interpreter."""
    host_calls: Annotated[int, Field(ge=1)] = 64
    """Calls of host tools by one call."""
    output_bytes: Annotated[int, Field(ge=64)] = 4096
    """Output kept; what is longer is cut, with a marker."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Processes that run calls; sessions hold none."""
    queue_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Deadline for a call to get a worker."""
    worker: Path | None = None
    """A program to start instead of the interpreter's own worker: one that confines itself further, by seccomp or
    namespaces, and then executes `monty` with the same arguments and process id. None starts the worker itself."""


class RemoteConfig(BaseModel):
    """A remote service that speaks SandboxFusion's HTTP (T4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^https?://")]
    """Without `/run_code`."""
    level: IsolationLevel = IsolationLevel.NONE
    """What the operator vouches for; nothing of it is verified from here."""
    key_header: str = "Authorization"
    """Where the key goes: as `Bearer KEY` in `Authorization`, bare in any other header."""
    run_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Wall-clock seconds that the service gives one program."""
    memory_bytes: Annotated[int, Field(ge=MIB)] = 512 * MIB
    output_bytes: Annotated[int, Field(ge=64)] = 4096
    """Output kept; what is longer is cut, with a marker."""
    call_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Deadline for one call with all its retries; well above `run_seconds`."""
    retries: Annotated[int, Field(ge=0)] = 4
    """After failures of the service or of the network; never after an error of the program."""


class HttpConfig(BaseModel):
    """The HTTP face: which tasks it offers, and what it takes at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    toolset: str = "ledger"
    split: Split = Split.TRAIN
    level: str | None = None
    """Of tasks whose caller names none; None is the toolset's easiest."""
    max_requests: Annotated[int, Field(ge=1)] = 32
    """At work at once; more are refused with 429."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * MIB
    call_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Deadline for the sandbox's part of a request; above its own, or slow code would look like a lost sandbox."""
    episode_seconds: Annotated[float, Field(gt=0)] = 300.0
    """An episode unused for this long is closed."""
    shutdown_seconds: Annotated[float, Field(gt=0)] = 20.0
    """For requests at work when the service is told to stop."""
