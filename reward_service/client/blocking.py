"""`SyncRewardClient`: the reward service for threads. Owns how effects of an `Exchange` are carried out there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from reward_service.breaker import CircuitBreaker
from reward_service.client.aio import bearer
from reward_service.client.exchange import Exchange, Flow, Send
from reward_service.client.outgoing import conversation_request
from reward_service.client.retries import Reply
from reward_service.model_card import ModelList
from reward_service.wire import ItemResult, ScoreRequest, ScoreResponse

_Result = TypeVar("_Result")
_BODY_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""They describe the body as it came; the one that is put together here is plain."""


class SyncRewardClient:
    """A client of one reward service; any number of threads may share it. The same as `RewardClient` otherwise.

    Without an event loop nothing can be interrupted from outside: a call may take up to twice its deadline where an
    answer begins just before the deadline and then comes slowly.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout_seconds: float = 60.0,
        retries: int = 8,
        transport: httpx.BaseTransport | None = None,
        *,
        reward_version: str | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """As `RewardClient`."""
        self._exchange = Exchange(url, timeout_seconds, retries, reward_version, breaker or CircuitBreaker())
        self._http = httpx.Client(headers=bearer(key), transport=transport, trust_env=False)

    @property
    def url(self) -> str:
        """Of the service, without `/v1`."""
        return self._exchange.url

    @property
    def reward_version(self) -> str | None:
        """What the client insists on; None before the first answer, if it was not given one."""
        return self._exchange.reward_version

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """Results in the order of `request.trajectories`. Raises as `RewardClient.score` does."""
        return self._run(self._exchange.score(request))

    def score_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        task: Mapping[str, Any] | None = None,
    ) -> ItemResult:
        """Score one trajectory given as chat messages. Raises as `RewardClient.score_messages` does."""
        return self.score(conversation_request(messages, tools, task)).results[0]

    def models(self) -> ModelList:
        """What the service scores by. Raises as `score` does."""
        return self._run(self._exchange.models())

    def ready(self) -> str:
        """Reward version of the service if it is ready now; asks once. Raises `RewardUnavailable` if it is not."""
        return self._run(self._exchange.ready())

    def _run(self, flow: Flow[_Result]) -> _Result:
        reply: Reply | None = None
        with closing(flow):
            while True:
                try:
                    effect = flow.send(reply)
                except StopIteration as end:
                    return end.value
                if isinstance(effect, Send):
                    reply = self._send(effect)
                else:
                    time.sleep(effect.seconds)
                    reply = None

    def _send(self, send: Send) -> Reply:
        call = send.call
        deadline = time.monotonic() + send.seconds
        # httpx takes no wait of exactly no time for one.
        limits = httpx.Timeout(max(send.seconds, 0.001))
        try:
            with self._http.stream(
                call.method, self.url + call.path, content=call.content, headers=call.headers, timeout=limits
            ) as response:
                return _read_until(deadline, response)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            return error


def _read_until(deadline: float, response: httpx.Response) -> Reply:
    """The whole answer. A body that comes byte by byte keeps within the limit of each wait, and breaks this one."""
    raw = bytearray()
    for chunk in response.iter_bytes():
        raw += chunk
        if time.monotonic() > deadline:
            return httpx.ReadTimeout("the answer came too slowly")
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _BODY_HEADERS]
    return httpx.Response(response.status_code, headers=headers, content=bytes(raw), request=response.request)
