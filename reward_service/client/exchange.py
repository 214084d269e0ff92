"""What the client does, without doing it: one call of it as a series of effects that a shell carries out.

Owns `Exchange`. Its methods are generators: they yield `Send` and `Pause`, get back the `Reply` to what was sent, and
return the result. Retries, the deadline, the pinned version and the circuit breaker are here, once for both clients.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import httpx

from reward_service.breaker import CircuitBreaker, CircuitOpen
from reward_service.client import answers
from reward_service.client.outgoing import MODELS, READY, Call, parts, score_call, within
from reward_service.client.retries import (
    Reply,
    asks_for_patience,
    is_in_flight,
    passes_by_itself,
    pause_seconds,
    told,
)
from reward_service.errors import (
    RewardCircuitOpen,
    RewardRequestError,
    RewardUnavailable,
    RewardVersionMismatch,
)
from reward_service.model_card import ModelList
from reward_service.wire import ItemResult, ScoreRequest, ScoreResponse

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Send:
    """Send `call`; the reply must be there, whole, within so many seconds."""

    call: Call
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


Flow = Generator[Send | Pause, Reply | None, _Result]


class Exchange:
    """The conversation with one service. Threads and tasks may share it; each call is a flow of its own."""

    def __init__(
        self,
        url: str,
        timeout_seconds: float,
        retries: int,
        reward_version: str | None,
        breaker: CircuitBreaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self.reward_version = reward_version
        """What this client insists on; None before the first answer."""
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._breaker = breaker
        self._clock = clock
        self._pinning = threading.Lock()

    def score(self, request: ScoreRequest) -> Flow[ScoreResponse]:
        """Results in the order of `request.trajectories`."""
        wanted = request.reward_version or self.reward_version
        tries = self._tries()
        results: list[ItemResult] = []
        for part in parts(request):
            # The same at each try: a service takes another deadline under the same key for another request.
            options = within(part.options, tries.seconds_left())
            asked = part.model_copy(update={"reward_version": wanted, "options": options})
            response = yield from self._answer(score_call(asked), tries)
            answer = answers.scores(response, asked)
            wanted = self._pinned(wanted, answer.reward_version)
            results.extend(answer.results)
        return ScoreResponse(reward_version=wanted or "", results=tuple(results))

    def models(self) -> Flow[ModelList]:
        """What the service scores by."""
        return answers.models((yield from self._answer(MODELS, self._tries())))

    def ready(self) -> Flow[str]:
        """The version of a ready service. Asks once, also while the circuit is open: it is there to find out."""
        tries = self._tries()
        reply = yield from self._attempt(READY, tries)
        if not isinstance(reply, httpx.Response) or passes_by_itself(reply):
            raise RewardUnavailable(self.url, tries.count, tries.last)
        return answers.ready_version(reply)

    def _answer(self, call: Call, tries: _Tries) -> Flow[httpx.Response]:
        """The first answer that stands. Tries that fail are counted; one that is still at work is waited for."""
        with self._through_breaker(tries):
            failed = 0
            while failed <= self._retries:
                reply = yield from self._attempt(call, tries)
                if isinstance(reply, httpx.Response) and not passes_by_itself(reply):
                    return reply
                waits = is_in_flight(reply)
                if waits or failed < self._retries:
                    yield self._pause(reply, failed, tries)
                failed += not waits
            raise RewardUnavailable(self.url, tries.count, tries.last)

    def _pause(self, reply: Reply, attempt: int, tries: _Tries) -> Pause:
        """The pause before the next try; none is begun that the deadline would end."""
        pause = Pause(pause_seconds(reply, attempt, datetime.now(UTC)))
        if pause.seconds >= tries.seconds_left():
            reason = f"deadline of {self._timeout_seconds:g} s; last: {tries.last}"
            raise RewardUnavailable(self.url, tries.count, reason)
        return pause

    def _attempt(self, call: Call, tries: _Tries) -> Flow[Reply]:
        tries.count += 1
        reply = yield Send(call, tries.seconds_left())
        if reply is None:
            raise TypeError(f"{call.path}: sent, and no reply; a shell answers each Send with a Reply")
        if not isinstance(reply, httpx.Response) and not passes_by_itself(reply):
            raise RewardRequestError(f"{self.url}: cannot be asked ({reply}); check the URL and the key") from reply
        tries.last, tries.were_put_off = told(reply), asks_for_patience(reply)
        return reply

    @contextmanager
    def _through_breaker(self, tries: _Tries) -> Iterator[None]:
        """A service that says that it is busy is well; one that says nothing, or only its proxy does, has failed."""
        try:
            era = self._breaker.admit()
        except CircuitOpen as refused:
            raise RewardCircuitOpen(self.url, refused.seconds) from refused
        end = self._breaker.abandoned
        try:
            yield
            end = self._breaker.succeeded
        except RewardUnavailable:
            end = self._breaker.abandoned if tries.were_put_off else self._breaker.failed
            raise
        finally:
            end(era)

    def _pinned(self, wanted: str | None, found: str) -> str:
        with self._pinning:
            for expected in (wanted, self.reward_version):
                if expected not in (None, found):
                    raise RewardVersionMismatch(expected=expected, found=found)
            self.reward_version = found
        return found

    def _tries(self) -> _Tries:
        return _Tries(self._clock, self._clock() + self._timeout_seconds)


@dataclass(slots=True)
class _Tries:
    """What one call of the client has tried so far, over all its chunks; told in its error."""

    clock: Callable[[], float]
    deadline: float
    count: int = 0
    last: str = "no reply yet"
    were_put_off: bool = False
    """Whether the last reply came from a service that is well."""

    def seconds_left(self) -> float:
        return max(0.0, self.deadline - self.clock())
