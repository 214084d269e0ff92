"""Settings of this floor: what isolated code may use, how many sessions an actor holds, what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tool_sandbox.tools import IsolationLevel

MIB = 1024 * 1024


class SandboxConfig(BaseModel):
    """What one run of isolated code may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: Annotated[int, Field(ge=1)] = 2
    """Per process, in whole seconds (the kernel's own unit). This is the verdict on code that does not end."""
    session_cpu_seconds: Annotated[int, Field(ge=1)] = 600
    """Of all calls of one stateful session together; the kernel ends its interpreter then."""
    wall_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Backstop for code that sleeps. Waiting for a CPU does not count, so a busy machine changes no verdict."""
    starved_seconds: Annotated[float, Field(gt=0)] = 120.0
    """A call that could not get its CPU for so long failed for our reasons, not for the model's."""
    memory_bytes: Annotated[int, Field(ge=64 * MIB)] = 512 * MIB
    """Address space of each process, and resident memory of all processes of a call together."""
    processes: Annotated[int, Field(ge=1)] = 16
    """Processes and threads at once, the interpreter and two of the sandbox's own included."""
    file_bytes: Annotated[int, Field(ge=4096)] = 16 * MIB
    """Size of each file."""
    tmp_bytes: Annotated[int, Field(ge=4096)] = 64 * MIB
    """All files together."""
    files: Annotated[int, Field(ge=1)] = 4096
    """Files and folders at once."""
    open_files: Annotated[int, Field(ge=16)] = 64
    output_bytes: Annotated[int, Field(ge=64)] = 4096
    """Output kept; what is longer is cut, with a marker."""
    uid: Annotated[int, Field(ge=1)] = 60000
    """User and group that a root launcher becomes. Limits on processes do not bind root."""
    min_level: IsolationLevel = IsolationLevel.NAMESPACES
    """Weakest isolation that is accepted; where the machine reaches less, nothing starts."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Sandboxes of one actor that run stateless calls; each runs one call at a time."""
    warm_sessions: Annotated[int, Field(ge=0)] = 2
    """Sandboxes started ahead for stateful sessions."""
    max_stateful_sessions: Annotated[int, Field(ge=1)] = 1024
    """Stateful sessions open at once."""
    queue_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long a call may wait for a free sandbox before it counts as our failure."""

    def limits(self, *, own_namespaces: bool) -> dict[str, float | int | None]:
        """What the processes inside need to know."""
        names = ("cpu_seconds", "session_cpu_seconds", "wall_seconds", "starved_seconds", "memory_bytes", "file_bytes")
        more = ("tmp_bytes", "files", "open_files", "output_bytes")
        # Without a user namespace the kernel would count every process of the user, Ray's too; there, no call may fork.
        return {name: getattr(self, name) for name in (*names, *more)} | {
            "processes": self.processes if own_namespaces else None,
            "own_namespaces": own_namespaces,
        }


class PoolConfig(BaseModel):
    """How sessions are handed out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_sessions: Annotated[int, Field(ge=1)] = 256
    """Open sessions per actor."""
    lease_seconds: Annotated[float, Field(gt=0)] = 300.0
    """A session unused for this long goes back: its trajectory is dead."""
    queue_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long one may wait for a free session; then the sandbox is full."""
    open_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Deadline for one actor to open a session, not counting the wait for a free one."""
    call_seconds: Annotated[float, Field(gt=0)] = 240.0
    """Deadline for a call; above what `isolation` lets one take, or slow code would look like a lost sandbox."""
    isolation: SandboxConfig = SandboxConfig()
    """Budgets and level of tools that run the model's code."""


class NoAudit(BaseModel):
    """Calls are not recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["off"] = "off"


class FileAudit(BaseModel):
    """One hash-chained record for each call, in a file of JSON lines. See `audit`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["file"] = "file"
    path: Path
    """One writer to a file; `steptool audit verify` reads it."""
    key_file: Path | None = None
    """Makes every hash an HMAC. Keep it where the writer of the file can read it and nobody can write it.
    None: whoever can write the file can rebuild the whole chain, and only a head kept elsewhere shows it."""
    sync_seconds: Annotated[float, Field(ge=0)] = 1.0
    """How often records are forced to the disk: what a loss of power may take. 0 does it after every record."""


AuditConfig = Annotated[NoAudit | FileAudit, Field(discriminator="kind")]
