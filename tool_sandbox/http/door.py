"""Who gets in, in one process: the key, what it is for, and how much of it is left.

Consumes `ApiKeys`; owns the watch of their file and the buckets of their quotas. All routes of a service share a door.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from tool_sandbox.http.key_file import WatchedKeys
from tool_sandbox.http.keys import ApiKeys, Scope, Unit, is_loopback
from tool_sandbox.http.quotas import Quotas

# Only Bearer is asked for, although Basic is accepted: a browser that is asked for Basic remembers what its user types,
# and then sends it along with the requests of any web page.
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Door:
    """Lets callers in by their keys; without any key, everybody. For one event loop."""

    def __init__(self, keys: ApiKeys, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` counts nanoseconds. Raises `InvalidKeys` where the file of `keys` cannot be used."""
        self._is_open = keys.is_open
        self._keys = WatchedKeys(keys, clock)
        self._quotas = Quotas(clock)

    def admit(self, authorization: str | None, origin: str | None, scope: Scope) -> str:
        """Name of the caller's key, which is charged with one request; empty where the service has no keys.

        Takes the headers `Authorization` and `Origin`.

        Raises:
            HTTPException: 401 without a known key, 403 where it is for something else, 429 where it is used up.
        """
        if self._is_open:
            _refuse_foreign_page(origin)
            return ""
        keys = self._keys.now()
        name = keys.who(authorization)
        if name is None:
            found = "no API key" if authorization is None else "unknown API key"
            raise HTTPException(401, f"{found}; send 'Authorization: Bearer KEY', or Basic with NAME:KEY", _CHALLENGE)
        if scope not in keys.entries[name].scopes:
            granted = "+".join(keys.entries[name].scopes)
            raise HTTPException(403, f"key {name!r}: is for {granted!r}; this needs the scope '{scope}'")
        self._charge(name, Unit.REQUESTS, 1)
        return name

    def charge(self, name: str, trajectories: int) -> None:
        """Charge the key with trajectories; costs nothing where the service has no keys.

        Raises:
            HTTPException: 429 where too few are left.
        """
        self._charge(name, Unit.TRAJECTORIES, trajectories)

    def _charge(self, name: str, unit: Unit, amount: int) -> None:
        # A key that was removed since it was let in may end what it began.
        key = self._keys.now().entries.get(name)
        quota = None if key is None else key.quota(unit)
        if quota is None:
            return
        seconds = self._quotas.take(name, quota, amount)
        if seconds > 0:
            detail = f"key {name!r}: at most {quota.per_minute} {unit} a minute; try again in {seconds} s"
            raise HTTPException(429, detail, {"Retry-After": str(seconds)})


def _refuse_foreign_page(origin: str | None) -> None:
    """Raise HTTP 403 for a web page of elsewhere: any site may send requests to this machine through its browser."""
    if origin is not None and not _is_local(origin):
        raise HTTPException(403, "a service without keys takes no requests from web pages of elsewhere; issue a key")


def _is_local(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname
        return host is not None and is_loopback(host)
    except ValueError:
        # Not a URL, as the 'null' of a file, or a host with a name, even one that resolves to this machine.
        return False
