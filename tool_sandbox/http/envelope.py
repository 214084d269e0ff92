"""What every answer of a service carries, whatever happens inside: a request id, and an answer for our own defects.

Owns `X-Request-Id`. A caller's own is kept where it is 1 to 128 visible ASCII characters, so that it can stand in a
log; it is the only thing of a request that is ever logged. The message of an error is not: it may quote a trajectory.
"""

from __future__ import annotations

import logging
import re
import traceback
import uuid
from collections.abc import Iterator

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "X-Request-Id"

_ACCEPTABLE = re.compile(rb"[\x21-\x7e]{1,128}")
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_MAX_FRAMES = 30
_logger = logging.getLogger(__name__)


class AnswerCutShort(Exception):
    """Something failed after its answer had begun; the log has it under the request's id."""


class Envelope:
    """A middleware: names each request, and answers what nobody else has answered."""

    def __init__(self, app: ASGIApp, service: str, failed: ASGIApp) -> None:
        """`failed` is the answer where the application raises."""
        self._app = app
        self._service = service
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = _Answer(_request_id(scope), send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:  # noqa: BLE001 - logged here; a server would print its message too
            _logger.error("%s failed on request %s: %s", self._service, answer.request_id, outline(error))
            if answer.begun or scope["type"] == "websocket":
                raise AnswerCutShort(answer.request_id) from None
            await self._failed(scope, receive, answer.send)


class _Answer:
    """The way out of one request."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.begun = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] in _STARTS:
            self.begun = True
            message.setdefault("headers", [])
            MutableHeaders(scope=message)[REQUEST_ID] = self.request_id
        await self._send(message)


def outline(error: BaseException) -> str:
    """The kinds and places of an error and of what it came from, one call a line; none of their messages."""
    return "\nafter ".join("\n  ".join([type(one).__qualname__, *_places(one)]) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _places(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


def _request_id(scope: Scope) -> str:
    found = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(found) == 1 and _ACCEPTABLE.fullmatch(found[0]):
        return found[0].decode("ascii")
    return uuid.uuid4().hex
