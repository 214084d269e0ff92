"""`RewardClient`: the reward service for an event loop. Owns how effects of an `Exchange` are carried out there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from reward_service.breaker import CircuitBreaker
from reward_service.client.exchange import Exchange, Flow, Pause, Send
from reward_service.client.outgoing import conversation_request
from reward_service.client.retries import Reply
from reward_service.model_card import ModelList
from reward_service.wire import ItemResult, ScoreRequest, ScoreResponse

_Result = TypeVar("_Result")


class RewardClient:
    """A client of one reward service, for one event loop; safe for many concurrent calls.

    The first answer pins the reward version; any later answer with another one raises `RewardVersionMismatch`.
    A request without a deadline gets one a little below the time that is left, so that the service answers what is
    done by then.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout_seconds: float = 60.0,
        retries: int = 8,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        reward_version: str | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """`url` without `/v1`; `timeout_seconds` bounds one call with all its retries, `retries` each chunk.

        `reward_version` insists on a version from the first request on, as a run does that goes on with an older one.
        """
        self._exchange = Exchange(url, timeout_seconds, retries, reward_version, breaker or CircuitBreaker())
        self._http = httpx.AsyncClient(
            headers=bearer(key),
            transport=transport,
            # A proxy variable of the environment would catch requests to a service on loopback.
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """Of the service, without `/v1`."""
        return self._exchange.url

    @property
    def reward_version(self) -> str | None:
        """What the client insists on; None before the first answer, if it was not given one."""
        return self._exchange.reward_version

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
            RewardCircuitOpen: nobody was asked, since the last calls had no answer.
            RewardVersionMismatch: the service's version is not the pinned one, or not `request.reward_version`.
            RewardUnauthorized, RewardRejected, RewardProtocolError: see `errors`.
        """
        return await self._run(self._exchange.score(request))

    async def score_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        task: Mapping[str, Any] | None = None,
    ) -> ItemResult:
        """Score one trajectory given as chat messages in OpenAI's format; `task` as the contract has it.

        Raises:
            pydantic.ValidationError: the messages, tools or task are not of the contract's form.
            RewardRequestError: as `score` does.
        """
        response = await self.score(conversation_request(messages, tools, task))
        return response.results[0]

    async def models(self) -> ModelList:
        """What the service scores by. Raises as `score` does."""
        return await self._run(self._exchange.models())

    async def ready(self) -> str:
        """Reward version of the service if it is ready now; asks once.

        Raises:
            RewardUnavailable: it is not.
        """
        return await self._run(self._exchange.ready())

    async def _run(self, flow: Flow[_Result]) -> _Result:
        reply: Reply | None = None
        # Closed at once when the caller is cancelled, so that a trial of the circuit breaker ends with it.
        with closing(flow):
            while True:
                try:
                    effect = flow.send(reply)
                except StopIteration as end:
                    return end.value
                reply = await self._carry_out(effect)

    async def _carry_out(self, effect: Send | Pause) -> Reply | None:
        if isinstance(effect, Send):
            return await self._send(effect)
        await asyncio.sleep(effect.seconds)
        return None

    async def _send(self, send: Send) -> Reply:
        call = send.call
        try:
            async with asyncio.timeout(send.seconds):
                # httpx limits each wait by itself; what counts here is the sum.
                return await self._http.request(
                    call.method, self.url + call.path, content=call.content, headers=call.headers, timeout=None
                )
        except TimeoutError:
            return httpx.ReadTimeout(f"no answer within {send.seconds:.3g} s")
        except (httpx.RequestError, httpx.InvalidURL) as error:
            return error


def bearer(key: str | None) -> dict[str, str]:
    """The headers that show `key`."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}
