"""Settings of this floor: what each tier's code may use, sessions of an actor, what is recorded, the HTTP face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tool_sandbox.tasks import Split
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
    min_level: IsolationLevel = IsolationLevel.LANDLOCK
    """Weakest isolation that is accepted; where the machine reaches less, nothing starts. `none` accepts a machine that
    can isolate nothing, for runs without tools that run code; such tools are refused there."""
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
    silent_seconds: Annotated[float, Field(gt=0)] = 60.0
    """An actor that missed a deadline and then says nothing for so long is ended and started anew."""
    isolation: SandboxConfig = SandboxConfig()
    """Budgets and level of tools that run the model's code."""
    language: LanguageConfig = LanguageConfig()
    """Budgets of tools that run programs in a language without a system."""
    remote: RemoteConfig | None = None
    """The service that runs remote tools; None where there is none."""
    audit: AuditConfig = NoAudit()
    """Whether each call leaves a record; every actor writes a file of its own."""
    verify_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """How often the canaries attack the isolation again, after they did at the start."""


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
    call_seconds: Annotated[float, Field(gt=0)] = 240.0
    """Deadline for the sandbox's part of a request; above its own, or slow code would look like a lost sandbox."""
    episode_seconds: Annotated[float, Field(gt=0)] = 300.0
    """An episode unused for this long is closed."""
    shutdown_seconds: Annotated[float, Field(gt=0)] = 20.0
    """For requests at work when the service is told to stop."""
