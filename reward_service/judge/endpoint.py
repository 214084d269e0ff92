"""The way to an OpenAI-compatible server: one chat completion, with deadlines, retries and the circuit breaker.

Owns `ChatEndpoint` and what it reads of `POST /v1/chat/completions`. Errors never show the key, nor what was asked or
answered.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from reward_service.breaker import CircuitBreaker, CircuitOpen
from reward_service.client.retries import asked_seconds
from reward_service.errors import JudgeUnavailable
from reward_service.judge.config import JudgeConfig
from reward_service.judge.judgement import Usage

PATH = "/v1/chat/completions"
_BUSY = 429
"""It answers, so the circuit stays closed."""
_RETRIED_STATUSES = frozenset({408, _BUSY, 500, 502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered."""

    text: str
    finished: bool
    """Whether the model ended by itself, not by the limit of tokens."""
    usage: Usage


@dataclass(frozen=True, slots=True)
class _Lost:
    """No answer."""

    reason: str
    again: bool
    """Whether another try may help."""
    pause_seconds: float | None = None
    """What the server asked for."""


class _TextOfChoice(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _TextOfChoice
    finish_reason: str | None = None


class _Tokens(BaseModel):
    prompt_tokens: NonNegativeInt = 0
    completion_tokens: NonNegativeInt = 0


class _Completion(BaseModel):
    choices: Annotated[tuple[_Choice, ...], Field(min_length=1)]
    usage: _Tokens | None = None


class _Refusal(BaseModel):
    """The part of an error that says what kind it is; its message may quote the request."""

    type: str | None = None
    code: str | int | None = None
    param: str | None = None


class _Refused(BaseModel):
    error: _Refusal


class ChatEndpoint:
    """One server, for one event loop; safe for many requests at once."""

    def __init__(
        self,
        config: JudgeConfig,
        key: str | None,
        transport: httpx.AsyncBaseTransport | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pause` waits so many seconds; `clock` is what the circuit breaker reads."""
        self._config = config
        self._pause = pause
        self.breaker = CircuitBreaker(config.breaker.failures, config.breaker.open_seconds, clock)
        self._turns = asyncio.Semaphore(config.requests_in_flight)
        self._http = httpx.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=config.request_seconds,
            transport=transport,
            limits=httpx.Limits(max_connections=config.requests_in_flight),
            # A proxy variable of the environment would catch requests to a server on loopback.
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ask(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], deadline: float) -> Reply:
        """The answer to `messages`; `deadline` in the event loop's time.

        Raises:
            JudgeUnavailable: there is none after all retries or before the deadline, or the request was refused.
        """
        body = self._body(messages, schema)
        attempt = 0
        while True:
            answer = await self._attempt(body)
            attempt += 1
            if isinstance(answer, Reply):
                return answer
            if not answer.again or attempt > self._config.request_retries:
                raise self._unavailable(attempt, answer.reason)
            seconds = _backoff(attempt) if answer.pause_seconds is None else answer.pause_seconds
            if asyncio.get_running_loop().time() + seconds >= deadline:
                raise self._unavailable(
                    attempt, f"{answer.reason}; the next try in {seconds:.1f} s would come after the deadline"
                )
            await self._pause(seconds)

    def _unavailable(self, attempts: int, reason: str) -> JudgeUnavailable:
        return JudgeUnavailable(self._config.url, f"after {attempts} requests: {reason}")

    def _body(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> dict[str, Any]:
        config = self._config
        body = {
            "model": config.model,
            "messages": list(messages),
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
        }
        match config.structured:
            case "json_schema":
                asked = {"name": "judgement", "schema": schema, "strict": True}
                return body | {"response_format": {"type": "json_schema", "json_schema": asked}}
            case "guided_json":
                return body | {"guided_json": schema}
            case "none":
                return body

    async def _attempt(self, body: Mapping[str, Any]) -> Reply | _Lost:
        async with self._turns:
            try:
                era = self.breaker.admit()
            except CircuitOpen as refused:
                return _Lost(str(refused), again=False)
            try:
                return await self._send(body, era)
            finally:
                self.breaker.abandoned(era)

    async def _send(self, body: Mapping[str, Any], era: int) -> Reply | _Lost:
        seconds = self._config.request_seconds
        try:
            # httpx bounds each read by itself: a server that sends a byte now and then would never time out.
            async with asyncio.timeout(seconds):
                response = await self._http.post(self._config.url + PATH, json=body)
        except (TimeoutError, httpx.TimeoutException):
            self.breaker.failed(era)
            return _Lost(f"no answer within {seconds:g} s", again=True)
        except httpx.RequestError as error:
            self.breaker.failed(era)
            return _Lost(f"{type(error).__name__}: {error}", again=True)
        if response.status_code in _RETRIED_STATUSES and response.status_code != _BUSY:
            self.breaker.failed(era)
        else:
            self.breaker.succeeded(era)
        return _read(response)


def _backoff(failures: int) -> float:
    """Seconds before the next try: doubling, with jitter so that many callers do not come back at once."""
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
    return longest * random.uniform(0.5, 1.0)


def _read(response: httpx.Response) -> Reply | _Lost:
    if not response.is_success:
        again = response.status_code in _RETRIED_STATUSES
        return _Lost(_refusal(response), again, asked_seconds(response.headers, datetime.now(UTC)))
    try:
        completion = _Completion.model_validate_json(response.content)
    except ValidationError:
        return _Lost(f"status {response.status_code} with a body that is no chat completion", again=False)
    choice, tokens = completion.choices[0], completion.usage
    usage = Usage(1, 1) if tokens is None else Usage(1, 0, tokens.prompt_tokens, tokens.completion_tokens)
    return Reply(choice.message.content or "", choice.finish_reason != "length", usage)


def _refusal(response: httpx.Response) -> str:
    try:
        error = _Refused.model_validate_json(response.content).error
    except ValidationError:
        return f"status {response.status_code}"
    told = [f"{name} {value}" for name, value in error.model_dump().items() if value is not None]
    return f"status {response.status_code}: {', '.join(told)}"[:300]
