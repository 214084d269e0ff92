"""`Idempotency-Key` over HTTP: a request that is sent again gets the answer that it got before, byte by byte.

Consumes the store's `Idempotency`; produces `Answers`, which stands between a route and its work. Follows
draft-ietf-httpapi-idempotency-key-header-07: 400 for a key that is none, 422 for a key of another request, 409 with
`Retry-After` while the first try is at work. A service that keeps nothing takes the header and does the work again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Request, Response
from starlette.exceptions import HTTPException

from reward_service.store.idempotency import Conflict, Fresh, Idempotency, InFlight, Replay
from tool_sandbox.http.guard import caller

IN_FLIGHT_RETRY_SECONDS = 1
_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
"""A string of RFC 8941, section 3.3.3."""
_BARE = re.compile(r"[A-Za-z0-9._~:/+=-]{1,255}")
"""What most clients send, though the draft wants quotes: a UUID or another token."""

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A string that no other request of yours has, in quotes. The same request with the same key gets "
        "the same answer for a day.",
        json_schema_extra={"pattern": rf"^({_QUOTED.pattern}|{_BARE.pattern})$"},
    ),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of an answer, as JSON, with its status."""

    body: bytes
    status: int = 200
    lasting: bool = True
    """Whether a repetition should get it too; not where another try may do better."""

    def response(self) -> Response:
        return Response(self.body, self.status, media_type="application/json")


class Answers:
    """Gives each request its answer, and repetitions the same one."""

    def __init__(self, idempotency: Idempotency | None) -> None:
        self._idempotency = idempotency

    async def answer(self, http: Request, key: str | None, work: Callable[[], Awaitable[Answer]]) -> Response:
        """What `work` gives, or gave when this request came with this key before.

        Raises:
            HTTPException: 400, 409 or 422, see above.
            StoreUnavailable: the database cannot be used now.
        """
        if key is None or self._idempotency is None:
            return (await work()).response()
        beginning = await self._idempotency.begin(caller(http), _read(key), await _fingerprint(http))
        match beginning:
            case Fresh():
                return await self._first(self._idempotency, beginning, work)
            case Replay():
                return Answer(beginning.body, beginning.status).response()
            case InFlight():
                raise HTTPException(
                    409,
                    f"Idempotency-Key {key}: the first request with this key is still at work; ask again",
                    {"Retry-After": str(IN_FLIGHT_RETRY_SECONDS)},
                )
            case Conflict():
                raise HTTPException(422, f"Idempotency-Key {key}: belongs to another request; take a new key")

    async def _first(self, kept: Idempotency, entry: Fresh, work: Callable[[], Awaitable[Answer]]) -> Response:
        async with kept.held(entry):
            found = await work()
            if not found.lasting:
                await kept.abandon(entry)
                return found.response()
            stands = await kept.finish(entry, found.status, found.body)
        return Answer(stands.body, stands.status).response()


def _read(header: str) -> str:
    quoted = _QUOTED.fullmatch(header)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if _BARE.fullmatch(header) is None:
        raise HTTPException(400, 'Idempotency-Key: expected 1 to 255 characters in quotes, e.g. "8e03978e-40d5-43e8"')
    return header


async def _fingerprint(http: Request) -> str:
    """A hash of all that makes it another request."""
    head = f"{http.method} {http.url.path}\n".encode()
    return hashlib.sha256(head + await http.body()).hexdigest()
