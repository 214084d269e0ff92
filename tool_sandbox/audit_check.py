"""Reads an audit log and says whether it is as it was written.

Owns `verify` and its report. Reads the file line by line, once, and a second time only to name what it found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tool_sandbox.audit_chain import GENESIS, Chain, Head, Link, head_path, read_head
from tool_sandbox.errors import AuditTampered, AuditUnreadable


class FaultKind(StrEnum):
    """What is wrong with a log."""

    CHANGED = "changed"
    """A record does not match its hash, or is not the one that its successor was chained to."""
    MISSING = "missing"
    REORDERED = "reordered"
    DUPLICATED = "duplicated"
    TORN = "torn"
    """The last line has no end: its writer died, or its end was cut off."""
    TRUNCATED = "truncated"
    """The log ends before its head."""
    HEAD = "head"
    """The head file itself was changed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong."""

    kind: FaultKind
    line: int
    """Counted from 1; for a truncated log the line that should come next."""
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a log holds, up to its first fault."""

    path: Path
    records: int
    """Intact, from the start."""
    head: str
    """Hash of the last intact record."""
    first_time: str | None
    last_time: str | None
    """UTC, ISO 8601; None where there is no record."""
    calls: Mapping[tuple[str, str], int]
    """Number of calls by tool and status."""
    head_known: bool
    """Whether there was a head to compare with. Without one, records cut off at the end are not missed."""
    fault: Fault | None

    @property
    def intact(self) -> bool:
        return self.fault is None


def verify(path: Path, key: bytes | None = None, expected_head: str | None = None) -> AuditReport:
    """Follow the chain of a log from its first record to its last.

    `expected_head`: hash of the last record as it was noted elsewhere; None compares with `FILE.head` where there is
    one. That file may lag behind a log that is being written, so a log may be longer than it says.

    Raises:
        AuditUnreadable: the file cannot be read, or was made with a key and none is given.
    """
    walk = _Walk(path, Chain(key))
    fault = walk.follow()
    head, head_fault = (None, None) if expected_head else _head(path, walk.chain)
    if fault is None:
        fault = head_fault or walk.shortfall(head, expected_head)
    return AuditReport(
        path=path,
        records=walk.records,
        head=walk.last,
        first_time=walk.first_time,
        last_time=walk.last_time,
        calls=dict(walk.calls),
        head_known=head is not None or expected_head is not None,
        fault=fault,
    )


class _Walk:
    """One reading of one file. Mutable, used once."""

    def __init__(self, path: Path, chain: Chain) -> None:
        self.path = path
        self.chain = chain
        self.records = 0
        self.last = GENESIS
        self.first_time: str | None = None
        self.last_time: str | None = None
        self.calls: Counter[tuple[str, str]] = Counter()
        self._hashes = bytearray()

    def follow(self) -> Fault | None:
        """Read until the first fault or the end."""
        for line in _lines(self.path):
            link = self.chain.open(line)
            fault = self._damage(line) if link is None else self._misplaced(link)
            if fault is not None or link is None:
                return fault
            self._count(link)
        return None

    def shortfall(self, head: Head | None, expected: str | None) -> Fault | None:
        """What the head knows and the log does not."""
        if expected is not None and expected != self.last:
            return self._truncated(f"the last record hashes to {self.last}, expected {expected}")
        if head is None:
            return None
        if head.records > self.records:
            return self._truncated(f"found {self.records} records, the head says {head.records}")
        if head.records and self._hash(head.records - 1) != head.hash:
            detail = f"record {head.records - 1} is not the one that the head was written for"
            return Fault(FaultKind.CHANGED, head.records, detail)
        return None

    def _hash(self, sequence: int) -> str:
        return self._hashes[32 * sequence : 32 * sequence + 32].hex()

    def _truncated(self, detail: str) -> Fault:
        return Fault(FaultKind.TRUNCATED, self.records + 1, detail)

    def _count(self, link: Link) -> None:
        self.records += 1
        self.last = link.hash
        self._hashes += bytes.fromhex(link.hash)
        self.last_time = link.record["time"]
        self.first_time = self.first_time or self.last_time
        self.calls[link.record["tool"], link.record["status"]] += 1

    def _damage(self, line: bytes) -> Fault:
        if not line.endswith(b"\n"):
            return self._fault(FaultKind.TORN, f"{len(line)} bytes without an end")
        if self.records == 0 and b'"chain":"hmac-sha256","hash":' in line and self.chain.name == "sha256":
            raise AuditUnreadable(f"audit log {self.path}: it was made with a key; give it with --key-file")
        return self._fault(FaultKind.CHANGED, self._mismatch())

    def _mismatch(self) -> str:
        other_key = ", or the key is not the one that it was made with" if self.chain.name != "sha256" else ""
        return f"the line does not match its own hash ({self.chain.name}){other_key}"

    def _misplaced(self, link: Link) -> Fault | None:
        expected, found = self.records, link.sequence
        if found == expected:
            if link.previous == self.last:
                return None
            return self._fault(
                FaultKind.CHANGED, "it was not chained to the record before it: one of the two was replaced"
            )
        if found < expected:
            same = self._hash(found) == link.hash
            kind = FaultKind.DUPLICATED if same else FaultKind.CHANGED
            return self._fault(kind, f"found record {found} once more, expected {expected}")
        later = any(other is not None and other.sequence == expected for other in self._rest())
        kind = FaultKind.REORDERED if later else FaultKind.MISSING
        return self._fault(kind, f"found record {found}, expected {expected}")

    def _rest(self) -> Iterator[Link | None]:
        for number, line in enumerate(_lines(self.path)):
            if number > self.records:
                yield self.chain.open(line)

    def _fault(self, kind: FaultKind, detail: str) -> Fault:
        return Fault(kind, self.records + 1, detail)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise AuditUnreadable(f"audit log {path}: {error.strerror}; name the file of an audit log") from error


def _head(path: Path, chain: Chain) -> tuple[Head | None, Fault | None]:
    try:
        return read_head(path, chain), None
    except AuditTampered as error:
        return None, Fault(FaultKind.HEAD, 0, f"{head_path(path).name}: {error}")
