"""The links of an audit log: how a record becomes a line with its hash, and back.

Owns the layout of a line and of the head file, and the keys. Pure but for the head and the key, which are files.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tool_sandbox.errors import AuditTampered, AuditUnreadable

GENESIS = "0" * 64
"""What the first record names as the hash before it."""
KEY_BYTES = 16
"""Shortest key that is taken."""
_TEXTS = ("time", "tool", "status", "previous", "chain")
_SEAL = b',"hash":"'
_END = b'"}\n'


@dataclass(frozen=True, slots=True)
class Link:
    """One line of the log that matches its own hash."""

    line: bytes
    """With its newline."""
    record: Mapping[str, Any]
    hash: str

    @property
    def sequence(self) -> int:
        return self.record["sequence"]

    @property
    def previous(self) -> str:
        return self.record["previous"]


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log has come."""

    records: int
    hash: str
    """Of the last record; `GENESIS` where there is none."""


class Chain:
    """Seals records and opens lines, under one key or none. Holds no state besides the key."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key

    @property
    def name(self) -> str:
        """Stands in each record, so that a log made with a key is not mistaken for one that was changed."""
        return "sha256" if self._key is None else "hmac-sha256"

    def seal(self, record: Mapping[str, object]) -> Link:
        """The line of a record, with its hash at the end."""
        named = {**record, "chain": self.name}
        content = json.dumps(named, separators=(",", ":")).encode()[:-1]
        digest = self._digest(content)
        return Link(content + _SEAL + digest.encode() + _END, named, digest)

    def open(self, line: bytes) -> Link | None:
        """The link of a line; None where any byte of it differs from what was sealed."""
        content, mark, rest = line.rpartition(_SEAL)
        digest = self._digest(content)
        if not mark or not hmac.compare_digest(rest, digest.encode() + _END):
            return None
        record = _record(content + b"}")
        return Link(line, record, digest) if record is not None and record["chain"] == self.name else None

    def write_head(self, log: Path, head: Head) -> None:
        """Replace the head file of a log in one step."""
        path = head_path(log)
        draft = path.with_name(path.name + ".new")
        content = {"records": head.records, "hash": head.hash, "seal": self._head_seal(head)}
        with draft.open("w", encoding="ascii") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def matches(self, head: Head, seal: str) -> bool:
        """Whether a head was written under this key."""
        return hmac.compare_digest(self._head_seal(head).encode(), seal.encode())

    def _head_seal(self, head: Head) -> str:
        # Every record's hash stands in the log for all to read: alone it would not show who wrote the head.
        return self._digest(f"head {head.records} {head.hash}".encode())

    def _digest(self, content: bytes) -> str:
        if self._key is None:
            return hashlib.sha256(content).hexdigest()
        return hmac.digest(self._key, content, "sha256").hex()


def _record(text: bytes) -> dict[str, Any] | None:
    """A record with all that a reader relies on. Without a key, anyone can hash lines that lack it."""
    try:
        record = json.loads(text)
        whole = isinstance(record["sequence"], int) and all(isinstance(record[name], str) for name in _TEXTS)
    except (ValueError, TypeError, KeyError):
        return None
    return record if whole else None


def head_path(log: Path) -> Path:
    """Where the head of a log stands."""
    return log.with_name(log.name + ".head")


def read_head(log: Path, chain: Chain) -> Head | None:
    """The head of a log; None where there is no head file.

    Raises:
        AuditTampered: the file is not what a log with this key writes.
    """
    path = head_path(log)
    try:
        content = json.loads(path.read_bytes())
        head, seal = Head(int(content["records"]), str(content["hash"])), str(content["seal"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditUnreadable(f"audit head {path}: {error.strerror}; check its owner and mode") from error
    except (ValueError, KeyError, TypeError) as error:
        raise AuditTampered(f"audit head {path}: it is not a head; expected records, hash and seal") from error
    if not chain.matches(head, seal):
        raise AuditTampered(
            f"audit head {path}: its seal does not match ({chain.name}); it was changed or has another key"
        )
    return head


def read_key(path: Path) -> bytes:
    """The key in a file, without the white space around it.

    Raises:
        AuditUnreadable: the file cannot be read, or is too short to be a key.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise AuditUnreadable(f"audit key {path}: {error.strerror}; name a file with a random key") from error
    if len(key) < KEY_BYTES:
        raise AuditUnreadable(
            f"audit key {path}: found {len(key)} bytes, expected at least {KEY_BYTES}; make one with "
            "`openssl rand -hex 32`"
        )
    return key
