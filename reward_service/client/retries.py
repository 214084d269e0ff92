"""What a reply means for the next try: whether to ask again, and how long to wait before. Pure.

Owns the statuses and errors that pass by themselves, and how `Retry-After` is read (RFC 9110, section 10.2.3).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_TOO_MANY_REQUESTS = 429
_RETRIED_STATUSES = frozenset({408, _TOO_MANY_REQUESTS, 502, 503, 504})
_RETRIED_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

Reply = httpx.Response | httpx.RequestError | httpx.InvalidURL
"""What came of a request: an answer, or why there is none."""


def passes_by_itself(reply: Reply) -> bool:
    """Whether the same request may fare better later."""
    if isinstance(reply, httpx.Response):
        return is_in_flight(reply) or reply.status_code in _RETRIED_STATUSES
    return isinstance(reply, _RETRIED_ERRORS)


def is_in_flight(reply: Reply) -> bool:
    """Whether an earlier try of the same request is still being worked on, and only its answer got lost.

    Of all conflicts this one names a time (draft-ietf-httpapi-idempotency-key-header-07).
    """
    if not isinstance(reply, httpx.Response):
        return False
    return reply.status_code == httpx.codes.CONFLICT and "retry-after" in reply.headers


def asks_for_patience(reply: Reply) -> bool:
    """Whether a service that is well has no answer yet: it is busy, with this request or with others."""
    is_busy = isinstance(reply, httpx.Response) and reply.status_code == _TOO_MANY_REQUESTS
    return is_busy or is_in_flight(reply)


def told(reply: Reply) -> str:
    """The reply in a few words, for the error that ends the tries."""
    if isinstance(reply, httpx.Response):
        return f"status {reply.status_code}"
    return f"{type(reply).__name__}: {reply}"


def pause_seconds(reply: Reply, attempt: int, now: datetime) -> float:
    """Seconds before the next try: what the service asks for, and a growing random part.

    The random part is there even where the service names a time, so that many callers do not come back at once.
    """
    asked = asked_seconds(reply.headers, now) if isinstance(reply, httpx.Response) else None
    return (asked or 0.0) + _backoff_seconds(attempt)


def asked_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds of a `Retry-After` header, in either form; None without one that can be read.

    A date counts from the answer's own `Date`, if it has one: the two clocks need not agree.
    """
    header = headers.get("retry-after", "").strip()
    if header.isascii() and header.isdecimal():
        return float(header)
    until = _date(header)
    if until is None:
        return None
    return max(0.0, (until - (_date(headers.get("date", "")) or now)).total_seconds())


def _backoff_seconds(attempt: int) -> float:
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # A date in the form of asctime() carries no zone; HTTP means UTC.
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
