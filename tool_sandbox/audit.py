"""The audit log: one hash-chained line of JSON for every tool call.

Owns `AuditEntry` (what a caller knows of a call) and `AuditLog` (one writer of one file). Each line holds the hash of
the line before it and ends with its own hash, taken over the very bytes that stand before it. `FILE.head` says how many
records there are and how the last one hashes, so that a cut at the end shows. With a key, hashes are HMACs: who can
write the file but lacks the key cannot rebuild the chain. `audit_check` finds what was changed. Knows nothing of Ray.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

from tool_sandbox.audit_chain import GENESIS, Chain, Head, Link, read_head, read_key
from tool_sandbox.config import AuditConfig, FileAudit
from tool_sandbox.errors import AuditFailed, AuditTampered
from tool_sandbox.leases import Recorder
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, Trust

_TAIL_BYTES = 65536
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One tool call; the log adds its number, its time and the hashes."""

    owner: str
    """The run, or whoever else asked."""
    lease: str
    task: str
    tool: str
    call_id: str
    trust: Trust | None
    """None where the model called a tool that does not exist."""
    input_digest: str
    """SHA-256 of the tool's name and arguments as canonical JSON."""
    output_digest: str
    """SHA-256 of the result's content as UTF-8."""
    status: CallStatus
    cpu_seconds: float
    wall_seconds: float
    isolation: IsolationLevel


def audit_entry(owner: str, lease: str, task: Task, call: ToolCall, result: ToolResult) -> AuditEntry:
    """The entry of a call that has ended."""
    return AuditEntry(
        owner=owner,
        lease=lease,
        task=task.id,
        tool=call.name,
        call_id=call.id,
        trust=_trusts(task.toolset).get(call.name),
        input_digest=_digest(_canonical({"name": call.name, "arguments": dict(call.arguments)})),
        output_digest=_digest(result.content),
        status=result.status,
        cpu_seconds=round(result.cpu_seconds, 6),
        wall_seconds=round(result.wall_seconds, 6),
        isolation=result.isolation,
    )


class AuditLog:
    """Appends to one file. Safe to use from many threads; one process at a time. A context manager."""

    def __init__(
        self,
        path: Path,
        key: bytes | None = None,
        sync_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open or make the file, take its lock, check its last record and go on from there.

        `key`: of `read_key`; None chains by plain SHA-256. `sync_seconds`: the first record after this long is forced
        to the disk, and the head with it. A crash of the process loses nothing, a loss of power what came since.

        Raises:
            AuditFailed: another process writes the file, or it cannot be written.
            AuditTampered: its last record or its head is not as this log left it.
        """
        self._path = path
        self._chain = Chain(key)
        self._sync_seconds = sync_seconds
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._file = _locked(path)
        self.torn: Path | None = None
        """Where a half-written last line of a crashed writer was moved to; None where there was none."""
        try:
            self._end, self._records, self._last = self._resume()
        except BaseException:
            os.close(self._file)
            raise
        self._synced = clock()

    @property
    def head(self) -> Head:
        """Number of records and hash of the last one: keep it elsewhere, and any cut shows."""
        return Head(self._records, self._last)

    def append(self, entry: AuditEntry) -> None:
        """Write one record through to the operating system.

        Raises:
            AuditFailed: the disk is full, or the file cannot be written. The file is as it was before.
        """
        with self._lock:
            link = self._chain.seal(self._record(entry))
            self._write(link.line)
            self._end += len(link.line)
            self._records += 1
            self._last = link.hash
            if self._clock() - self._synced >= self._sync_seconds:
                self._sync()

    def sync(self) -> None:
        """Force all records to the disk and write the head. Raises `AuditFailed`."""
        with self._lock:
            self._sync()

    def close(self) -> None:
        """Sync and give the file free. Safe to call twice. Raises `AuditFailed`."""
        with self._lock:
            if self._file < 0:
                return
            try:
                self._sync()
            finally:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, entry: AuditEntry) -> dict[str, object]:
        stamp = self._now().astimezone(UTC).isoformat(timespec="microseconds")
        return {"sequence": self._records, "time": stamp, **asdict(entry), "previous": self._last}

    def _write(self, line: bytes) -> None:
        if self._file < 0:
            raise AuditFailed(f"audit log {self._path}: it is closed; open it again to go on")
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            # Half a record must not stay: the next one would be glued to it.
            os.ftruncate(self._file, self._end)
            raise _failed(self._path, f"record {self._records} was not written", error) from error

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
            # After the records, so that the head never promises what a loss of power took away.
            self._chain.write_head(self._path, self.head)
        except OSError as error:
            raise _failed(self._path, "its records are written but not synced", error) from error
        self._synced = self._clock()

    def _resume(self) -> tuple[int, int, str]:
        """Offset of the next record, number of records, hash of the last."""
        size = os.fstat(self._file).st_size
        line, end = _last_line(self._file, size)
        if end < size:
            self.torn = _set_aside(self._path, self._file, end, size)
        last = None if line is None else self._checked(line)
        records, digest = (0, GENESIS) if last is None else (last.sequence + 1, last.hash)
        head = read_head(self._path, self._chain)
        if head is not None and (head.records > records or (head.records == records and head.hash != digest)):
            raise AuditTampered(
                f"audit log {self._path}: found {records} records ending in {digest[:12]}…, its head says "
                f"{head.records} ending in {head.hash[:12]}…; run `steptool audit verify`, then move both files aside"
            )
        return end, records, digest

    def _checked(self, line: bytes) -> Link:
        link = self._chain.open(line)
        if link is None:
            raise AuditTampered(
                f"audit log {self._path}: its last record does not match its own hash "
                f"({self._chain.name}); run `steptool audit verify`, then move the file aside or give the right key"
            )
        return link


def open_audit(config: AuditConfig, owner: str) -> tuple[AuditLog, Recorder] | None:
    """The log that a configuration asks for, and what a `SessionTable` records into it; None where it is off.

    Raises:
        AuditFailed, AuditTampered, AuditUnreadable: as `AuditLog` and `read_key`.
    """
    if not isinstance(config, FileAudit):
        return None
    key = None if config.key_file is None else read_key(config.key_file)
    log = AuditLog(config.path, key, config.sync_seconds)

    def record(lease: str, task: Task, call: ToolCall, result: ToolResult) -> None:
        log.append(audit_entry(owner, lease, task, call, result))

    return log, record


@lru_cache(maxsize=64)
def _trusts(toolset: str) -> dict[str, Trust]:
    return {spec.name: spec.trust for spec in load_toolset(toolset).specs()}


def _canonical(value: object) -> str:
    try:
        # What is no JSON was never a model's argument; its repr still tells two calls apart.
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)
    except RecursionError:
        # A model nests as deep as it likes. Such a call is refused, but it was made.
        return "nested too deep"


def _digest(text: str) -> str:
    # A model can write half a surrogate pair, and the record of that must not fail.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _failed(path: Path, what: str, error: OSError) -> AuditFailed:
    return AuditFailed(f"audit log {path}: {what} ({error.strerror}); make room or check the disk, then go on")


def _locked(path: Path) -> int:
    """A descriptor of the file, which is made if need be, with its writer's lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failed(path, "it cannot be opened", error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise AuditFailed(
            f"audit log {path}: another writer holds it; a chain has one writer, so give each its own file"
        ) from error
    return file


def _last_line(file: int, size: int) -> tuple[bytes | None, int]:
    """The last whole line, None where there is none, and the offset behind it."""
    length = min(size, _TAIL_BYTES)
    while True:
        tail = os.pread(file, length, size - length)
        end = tail.rfind(b"\n") + 1
        begin = tail.rfind(b"\n", 0, max(end - 1, 0)) + 1
        if length == size or begin > 0:
            return (tail[begin:end] if end else None), size - length + end
        length = min(size, 2 * length)


def _set_aside(path: Path, file: int, end: int, size: int) -> Path:
    """Move what a crashed writer left of its last line into a file of its own."""
    aside = path.with_name(f"{path.name}.torn-{end}")
    try:
        with aside.open("wb") as copy:
            copy.write(os.pread(file, size - end, end))
            copy.flush()
            os.fsync(copy.fileno())
        os.ftruncate(file, end)
    except OSError as error:
        raise _failed(path, "its torn last line cannot be moved aside", error) from error
    _logger.warning(
        "audit log %s: a writer died within its last line; %d bytes moved to %s, the chain goes on from the last whole "
        "record",
        path,
        size - end,
        aside,
    )
    return aside
