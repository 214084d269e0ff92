"""Named API keys. Only their SHA-256 is kept, so neither a process list nor a Ray state dump shows a usable key.

Owns the format `name:sha256`, one key each, separated by commas or lines; a line that begins with `#` is a comment.
Owns the rule that a service without keys listens on loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tool_sandbox.errors import InvalidKeys

_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})", re.ASCII)
_SECRET_BYTES = 32


def digest(secret: str) -> str:
    """SHA-256 of a key, in hexadecimal, as it stands in the list of keys."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Who may use a service."""

    digests: Mapping[str, str]
    """SHA-256 by name."""

    @classmethod
    def nobody_asked(cls) -> Self:
        """No keys: every caller is let in. For loopback only."""
        return cls({})

    @classmethod
    def issue(cls, name: str) -> tuple[Self, str]:
        """A fresh random key: the list that knows it, and the secret, which is kept nowhere else."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        return cls.parse(f"{name}:{digest(secret)}"), secret

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the list format.

        Raises:
            InvalidKeys: an entry is not `name:sha256`, or a name occurs twice. The message never shows the entry.
        """
        digests: dict[str, str] = {}
        lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
        entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
        for position, entry in enumerate(entries, start=1):
            match = _ENTRY.fullmatch(entry)
            if match is None:
                raise InvalidKeys(f"API key {position} of {len(entries)}: expected 'name:' and 64 hexadecimal digits")
            if match[1] in digests:
                raise InvalidKeys(f"API key {position} of {len(entries)}: name {match[1]!r} is taken; name each once")
            digests[match[1]] = match[2]
        return cls(digests)

    @classmethod
    def load(cls, environment: Mapping[str, str], variable: str) -> Self:
        """Keys from the environment variable, or from the file that `<variable>_FILE` names.

        Raises:
            InvalidKeys: both or neither are set, the file cannot be read, or there is no key in it.
        """
        file_variable = f"{variable}_FILE"
        inline, path = environment.get(variable), environment.get(file_variable)
        if (inline is None) == (path is None):
            found = "neither" if inline is None else "both"
            raise InvalidKeys(f"API keys: found {found} of {variable} and {file_variable}; set exactly one")
        keys = cls.parse(inline if inline is not None else _read(Path(path or ""), file_variable))
        if not keys.digests:
            raise InvalidKeys("API keys: the list is empty; add at least one 'name:sha256'")
        return keys

    def who(self, authorization: str | None) -> str | None:
        """Name of the key in an `Authorization: Bearer …` header; None when it is missing or unknown.

        Compares with every key in constant time, so that timing tells nothing of any of them.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        offered = digest(secret.strip())
        matches = [name for name, known in self.digests.items() if hmac.compare_digest(known, offered)]
        return matches[0] if matches and scheme.lower() == "bearer" else None


def refuse_open_door(service: str, host: str, keys: ApiKeys) -> None:
    """Raise `InvalidKeys` where a service without keys could be reached from another machine."""
    if not keys.digests and not is_loopback(host):
        raise InvalidKeys(f"{service}: no API keys, and {host} can be reached from elsewhere; issue a key")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an IP address or `localhost`."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _read(path: Path, variable: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidKeys(f"API keys: cannot read {path} ({error.strerror}); check {variable}") from error
