"""The way to the reward service over HTTP: chunks, retries, one deadline, one reward version.

Owns `RewardClient` and the protocol `RewardSource` that its callers need. Loads neither torch nor vLLM nor Ray nor
FastAPI.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import httpx
from pydantic import ValidationError

from reward_service.errors import (
    RewardProtocolError,
    RewardRejected,
    RewardRequestError,
    RewardUnauthorized,
    RewardUnavailable,
    RewardVersionMismatch,
)
from reward_service.wire import (
    MAX_BODY_BYTES,
    MAX_TRAJECTORIES,
    VERSION_MISMATCH,
    ConversationItem,
    ItemResult,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    TrajectoryItem,
)

_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
_RETRIED_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# Room for the envelope around the trajectories.
_CHUNK_BYTES = MAX_BODY_BYTES - 4096


class RewardSource(Protocol):
    """Whatever scores a request: the client here, or a fake."""

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """One result for each trajectory, in order."""
        ...


class RewardClient:
    """A client of one reward service, for one event loop; safe for many concurrent calls.

    The first answer pins the reward version; any later answer with another one raises `RewardVersionMismatch`.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout_seconds: float = 60.0,
        retries: int = 8,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`url` without `/v1`; `timeout_seconds` bounds one `score` call with all its retries, `retries` each chunk."""
        self.url = url.rstrip("/")
        self.reward_version: str | None = None
        """Version of the first answer; None before it."""
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._http = httpx.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=timeout_seconds,
            transport=transport,
            # A proxy variable of the environment would catch requests to a service on loopback.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Results in the order of `request.trajectories`.

        Raises:
            RewardUnavailable: no answer before the deadline, or after all retries.
            RewardVersionMismatch: the service's version is not the pinned one, or not `request.reward_version`.
            RewardUnauthorized, RewardRejected, RewardProtocolError: see `errors`.
        """
        wanted = request.reward_version or self.reward_version
        attempts = _Attempts()
        results: list[ItemResult] = []
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for chunk in chunks(request.trajectories):
                    part = ScoreRequest(reward_version=wanted, trajectories=chunk)
                    response = await self._post(part, attempts)
                    wanted = self._pinned(wanted, response.reward_version)
                    results.extend(response.results)
        except TimeoutError as error:
            reason = f"deadline of {self._timeout_seconds:g} s; last: {attempts.last}"
            raise RewardUnavailable(self.url, attempts.count, reason) from error
        return ScoreResponse(reward_version=wanted or "", results=tuple(results))

    def _pinned(self, wanted: str | None, found: str) -> str:
        for expected in (wanted, self.reward_version):
            if expected not in (None, found):
                raise RewardVersionMismatch(expected=expected, found=found)
        self.reward_version = found
        return found

    async def _post(self, request: ScoreRequest, attempts: _Attempts) -> ScoreResponse:
        body = request.model_dump_json()
        for attempt in range(self._retries + 1):
            attempts.count += 1
            try:
                response = await self._http.post(
                    f"{self.url}/v1/score", content=body, headers={"Content-Type": "application/json"}
                )
            except _RETRIED_ERRORS as error:
                attempts.last = f"{type(error).__name__}: {error}"
                pause = _backoff(attempt)
            except httpx.TransportError as error:
                raise RewardRequestError(f"{self.url}: cannot be asked ({error}); check the URL and the key") from error
            else:
                if response.status_code not in _RETRIED_STATUSES:
                    return _read(response, request)
                attempts.last = f"status {response.status_code}"
                pause = _asked_pause(response) or _backoff(attempt)
            if attempt < self._retries:
                await asyncio.sleep(pause)
        raise RewardUnavailable(self.url, attempts.count, attempts.last)


class _Attempts:
    """What one `score` call has tried so far; told in its error."""

    def __init__(self) -> None:
        self.count = 0
        self.last = "no reply yet"


def chunks(
    items: Sequence[TrajectoryItem | ConversationItem],
    max_items: int = MAX_TRAJECTORIES,
    max_bytes: int = _CHUNK_BYTES,
) -> Iterator[tuple[TrajectoryItem | ConversationItem, ...]]:
    """Split `items` in order, so that no chunk is over either limit; a single item over `max_bytes` stands alone."""
    chunk: list[TrajectoryItem | ConversationItem] = []
    size = 0
    for item in items:
        item_bytes = len(item.model_dump_json().encode()) + 1
        if chunk and (len(chunk) == max_items or size + item_bytes > max_bytes):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(item)
        size += item_bytes
    if chunk:
        yield tuple(chunk)


def _backoff(attempt: int) -> float:
    """Seconds before the next try: doubling, with jitter so that many callers do not come back at once."""
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds of a `Retry-After` header; None without one. The form with a date is not used by Serve."""
    header = response.headers.get("retry-after", "")
    return float(header) if header.isascii() and header.isdigit() else None


def _read(response: httpx.Response, request: ScoreRequest) -> ScoreResponse:
    if response.status_code != httpx.codes.OK:
        raise _refusal(response)
    try:
        answer = ScoreResponse.model_validate_json(response.content)
    except ValidationError as error:
        raise RewardProtocolError(f"{response.url}: the answer does not fit the contract: {error}") from error
    expected = [(item.id, _step_count(item)) for item in request.trajectories]
    found = [
        (result.id, len(result.steps) if isinstance(result, ScoredItem) and _step_count(item) is not None else _step_count(item))
        for result, item in zip(answer.results, request.trajectories, strict=False)
    ]
    if found != expected or len(answer.results) != len(expected):
        raise RewardProtocolError(
            f"{response.url}: {len(answer.results)} results for {len(expected)} trajectories, ids and steps {found}; "
            f"expected {expected} in this order"
        )
    return answer


def _step_count(item: TrajectoryItem | ConversationItem) -> int | None:
    """None where the service counts: in messages, every call is a step."""
    return len(item.steps) if isinstance(item, TrajectoryItem) else None


def _refusal(response: httpx.Response) -> RewardRequestError:
    problem = _problem(response)
    detail = str(problem.get("detail") or response.text[:500])
    match response.status_code:
        case 401 | 403:
            return RewardUnauthorized(f"{response.url}: {detail}")
        case 409 if problem.get("type") == VERSION_MISMATCH:
            return RewardVersionMismatch(expected=str(problem["expected"]), found=str(problem["found"]))
        case status:
            return RewardRejected(status, detail)


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document; empty where the answer is none, as from Serve's own proxy."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    return response.json()
