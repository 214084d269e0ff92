"""What Serve's own proxy answers, as problem documents: it refuses in plain text where no replica was asked.

Produces `problem_documents`, which Serve calls in each of its proxies where `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`
names it in the environment that Ray was started with. Passes on everything but those refusals, and asks another replica
once where one was lost with a request that may be repeated: what it had accepted is answered.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_service.repeatable import Repeatable
from tool_sandbox.http.envelope import REQUEST_ID
from tool_sandbox.http.problems import problem

_RETRY_AFTER = "Retry-After"
_RETRY_AFTER_SECONDS = "1"
_REASONS = {
    404: "no application is served at this path",
    408: "no answer came in time; ask for less at once, or again later",
    429: "all replicas are busy and the queue before them is full; try again",
    503: "no replica can answer now; try again",
}
_HEADERS_OF_A_REFUSAL = frozenset({"content-type", "retry-after", "x-request-id"})
_LOST = 503
"""A replica that died with the request leaves no answer at all."""
_UNREAD = 408
"""A replica waited in vain for the body. Where all of it has come in, a replica that died before this one had taken it:
Serve asks another by itself where the first had not yet said that it accepts, and has no second copy for it."""


def problem_documents() -> list[Middleware]:
    """What Serve puts around its proxy."""
    return [Middleware(ProblemDocuments)]


class ProblemDocuments:
    """A middleware: the refusals of Serve's proxy as problem documents, and an answer where a replica was lost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        question = Repeatable(scope, receive)
        answer = _Answer(send, question)
        # Serve's proxy changes the scope that it is given.
        asked = dict(scope)
        await self._app(asked, question.receive, answer.send)
        if answer.is_missing and question.is_kept:
            await self._app(dict(scope), question.again(), answer.send)
        if not answer.begun:
            refusal = answer.refused or _Refusal(_LOST, {REQUEST_ID: _request_id(asked)})
            await problem(refusal.status, _REASONS[refusal.status], headers=refusal.headers)(scope, receive, send)


class _Refusal:
    """What is kept of a refusal in plain text."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        pause = {_RETRY_AFTER: _RETRY_AFTER_SECONDS} if status in (429, _LOST) else {}
        self.headers = {**pause, **headers}


class _Answer:
    """The way out of one request."""

    def __init__(self, send: Send, question: Repeatable) -> None:
        self._send = send
        self._question = question
        self.begun = False
        self.refused: _Refusal | None = None

    @property
    def is_missing(self) -> bool:
        """Neither an answer nor a refusal: the replica was lost, or the body with the one before it."""
        return not self.begun and self.refused is None

    async def send(self, message: Message) -> None:
        if not self.begun and message["type"] == "http.response.start":
            self.refused = _refusal(message)
            unread = message["status"] == _UNREAD and self._question.is_whole
            self.begun = self.refused is None and not unread
        if self.begun:
            await self._send(message)


def _refusal(start: Message) -> _Refusal | None:
    """The refusal that this message begins; None for the answer of an application, whose server counts its bytes."""
    headers = Headers(raw=start["headers"])
    if start["status"] not in _REASONS or not set(headers.keys()) <= _HEADERS_OF_A_REFUSAL:
        return None
    if not headers.get("content-type", "").startswith("text/plain"):
        return None
    kept = {name: headers[name] for name in (_RETRY_AFTER, REQUEST_ID) if name in headers}
    return _Refusal(start["status"], kept)


def _request_id(scope: Scope) -> str:
    # Serve's proxy has put one there before it asked anybody.
    return Headers(scope=scope).get(REQUEST_ID, "")
