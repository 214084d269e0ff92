"""Named API keys. Only their SHA-256 is kept, so neither a process list nor a Ray state dump shows a usable key.

Owns the list of keys: one entry each, separated by commas or lines; a line that begins with `#` is a comment. An entry
is a name and the SHA-256 of the key, then what the key is for, and how much of it:

    anna:SHA256                                          everything, without a quota
    bert:SHA256:score+read                               two scopes
    cleo:SHA256:score:600/min                            at most 600 requests a minute
    dora:SHA256:60/min:5000 trajectories/min             every scope; both quotas hold

Scopes are those of `Scope`, joined by `+`. A quota counts in each process that serves, so that a service of three
replicas allows up to three times as much. Owns the rule that a service without keys listens on loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.credentials import read_credentials


class Scope(StrEnum):
    """What a key may be used for."""

    SCORE = "score"
    BATCHES = "batches"
    TOOLS = "tools"
    READ = "read"
    """Models, and what the page for people shows. Metrics want no key."""


class Unit(StrEnum):
    """What a quota counts."""

    REQUESTS = "requests"
    TRAJECTORIES = "trajectories"


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a key may do."""

    per_minute: int
    """Also how much it may do at once after a minute's rest."""
    unit: Unit = Unit.REQUESTS


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key."""

    digest: str
    """SHA-256 in hexadecimal."""
    scopes: tuple[Scope, ...] = tuple(Scope)
    """In the order of `Scope`: equal keys have equal bytes, or Serve would see a change and replace its replicas."""
    quotas: tuple[Quota, ...] = ()
    """At most one for each unit."""

    def quota(self, unit: Unit) -> Quota | None:
        """The quota that counts `unit`; None without one."""
        return next((quota for quota in self.quotas if quota.unit is unit), None)


_SCOPES = f"(?:{'|'.join(Scope)})"
_QUOTA = r"([1-9][0-9]{0,8})( trajectories)?/min"
_NAMED = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})(:.*)?", re.ASCII)
_GRANTED = re.compile(rf"(?::({_SCOPES}(?:\+{_SCOPES})*))?((?::{_QUOTA})*)", re.ASCII)
_SECRET_BYTES = 32


def digest(secret: str) -> str:
    """SHA-256 of a key, in hexadecimal, as it stands in the list of keys."""
    return _digest(secret.encode())


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Who may use a service: a value that one process gives to another."""

    entries: Mapping[str, Key]
    """By name."""
    file: Path | None = None
    """A list of further keys. It is read in each process that serves, and watched there (`key_file`)."""

    @classmethod
    def nobody_asked(cls) -> ApiKeys:
        """No keys: every caller is let in. For loopback only."""
        return cls({})

    @classmethod
    def issue(cls, name: str) -> tuple[ApiKeys, str]:
        """A fresh random key: the list that knows it, and the secret, which is kept nowhere else."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        return cls.parse(f"{name}:{digest(secret)}"), secret

    @classmethod
    def parse(cls, text: str) -> ApiKeys:
        """Read the list format.

        Raises:
            InvalidKeys: an entry has another form, or the name of an earlier one. The message never shows an entry.
        """
        lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
        listed = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
        entries: dict[str, Key] = {}
        for position, entry in enumerate(listed, start=1):
            try:
                name, key = _entry(entry)
                if name in entries:
                    raise ValueError("its name is taken by an earlier entry; name each once")
            except ValueError as error:
                raise InvalidKeys(f"API key {position} of {len(listed)}: {error}") from None
            entries[name] = key
        return cls(entries)

    @classmethod
    def load(cls, environment: Mapping[str, str], variable: str) -> ApiKeys:
        """Keys from the environment variable, or from the file that `<variable>_FILE` names, which stays a file.

        Raises:
            InvalidKeys: both or neither are set, the file cannot be read, or there is no key.
        """
        file_variable = f"{variable}_FILE"
        inline, path = environment.get(variable), environment.get(file_variable)
        if (inline is None) == (path is None):
            found = "neither" if inline is None else "both"
            raise InvalidKeys(f"API keys: found {found} of {variable} and {file_variable}; set exactly one")
        if path is not None:
            # Not resolved: a mounted secret is replaced by turning a link. Absolute: workers of Ray run elsewhere.
            keys = cls({}, Path(path).absolute())
            keys.resolved()
            return keys
        return _some(cls.parse(inline or ""), variable)

    @property
    def is_open(self) -> bool:
        """Whether every caller is let in."""
        return not self.entries and self.file is None

    def joined(self, other: ApiKeys) -> ApiKeys:
        """The keys of both lists.

        Raises:
            InvalidKeys: both lists have a key of the same name.
        """
        taken = sorted(self.entries.keys() & other.entries.keys())
        if taken:
            raise InvalidKeys(f"API keys: the names {taken} belong to keys of the service's own; name yours otherwise")
        return ApiKeys({**self.entries, **other.entries}, self.file or other.file)

    def resolved(self) -> ApiKeys:
        """All keys as they are now, those of the file among them.

        Raises:
            InvalidKeys: the file cannot be read, holds no key, or names one that is here already.
        """
        if self.file is None:
            return self
        return ApiKeys(self.entries).joined(_some(ApiKeys.parse(_read(self.file)), str(self.file)))

    def who(self, authorization: str | None) -> str | None:
        """Name of the key, among `entries`, that an `Authorization` header offers; None when there is none.

        With Basic, the user name is that of the key, or empty. Compares with every key in constant time, so that timing
        tells nothing of any of them.
        """
        offered = read_credentials(authorization)
        if offered is None:
            return None
        found, secret = None, _digest(offered.secret)
        for name, key in self.entries.items():
            matches = hmac.compare_digest(key.digest, secret)
            named = hmac.compare_digest(name.encode(), offered.name or name.encode())
            if matches & named and found is None:
                found = name
        return found


def refuse_open_door(service: str, host: str, keys: ApiKeys) -> None:
    """Raise `InvalidKeys` where a service without keys could be reached from another machine."""
    if keys.is_open and not is_loopback(host):
        raise InvalidKeys(f"{service}: no API keys, and {host} can be reached from elsewhere; issue a key")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an IP address or `localhost`."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _entry(entry: str) -> tuple[str, Key]:
    """One entry of the list. Raises `ValueError`, which says what was expected and nothing of what was found."""
    named = _NAMED.fullmatch(entry)
    if named is None:
        raise ValueError("expected 'name:' and 64 hexadecimal digits")
    name, known, rest = named.groups(default="")
    if known == _digest(b""):
        raise ValueError("this is the SHA-256 of nothing; take that of a key")
    granted = _GRANTED.fullmatch(rest)
    if granted is None:
        expected = f"scopes ({'+'.join(Scope)}), then quotas ('600/min' or '5000 trajectories/min')"
        raise ValueError(f"after the digits, expected nothing or {expected}, each after a ':'")
    words = set(Scope) if granted[1] is None else set(granted[1].split("+"))
    return name, Key(known, tuple(scope for scope in Scope if scope in words), _quotas(granted[2]))


def _quotas(text: str) -> tuple[Quota, ...]:
    found = [
        Quota(int(amount), Unit.TRAJECTORIES if counted else Unit.REQUESTS)
        for amount, counted in re.findall(_QUOTA, text, re.ASCII)
    ]
    if len({quota.unit for quota in found}) != len(found):
        raise ValueError("expected at most one quota of requests and one of trajectories")
    return tuple(found)


def _some(keys: ApiKeys, source: str) -> ApiKeys:
    """The keys. Raises `InvalidKeys` where there are none, which would let everybody in."""
    if not keys.entries:
        raise InvalidKeys(f"API keys: the list of {source} is empty; add at least one 'name:sha256'")
    return keys


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidKeys(f"API keys: cannot read {path} ({error.strerror}); expected a list of keys") from error
    except UnicodeDecodeError:
        raise InvalidKeys(f"API keys: {path} is no text in UTF-8; expected a list of keys") from None
