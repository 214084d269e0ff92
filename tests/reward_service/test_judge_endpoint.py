"""The way to the server, against one that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import pickle

import httpx
import pytest

from reward_service.breaker import CircuitState
from reward_service.errors import JudgeUnavailable, ScorerUnavailable
from reward_service.judge.endpoint import ChatEndpoint, Reply
from reward_service.judge.judgement import Usage
from tests.reward_service.judges import config

MESSAGES = ({"role": "user", "content": "my secret trajectory"},)
SCHEMA = {"type": "object"}
OK = httpx.Response(
    200,
    json={
        "choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    },
)


class Server:
    """Plays replies one after the other and then stays with the last; pauses cost no time and are kept."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.clock = 0.0

    async def __call__(self, request):
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply if isinstance(reply, httpx.Response) else await reply(request)

    async def pause(self, seconds):
        self.pauses.append(seconds)

    def endpoint(self, key=None, **changes):
        transport = httpx.MockTransport(self)
        return ChatEndpoint(config(**changes), key, transport, self.pause, clock=lambda: self.clock)

    @property
    def bodies(self):
        return [json.loads(request.content) for request in self.requests]


async def refuses(request):
    raise httpx.ConnectError("connection refused")


async def never_answers(request):
    await asyncio.Event().wait()


async def ask(endpoint, seconds=60.0):
    return await endpoint.ask(MESSAGES, SCHEMA, asyncio.get_running_loop().time() + seconds)


async def test_an_answer_comes_with_its_tokens():
    server = Server(OK)
    assert await ask(server.endpoint(key="sesame")) == Reply("{}", True, Usage(1, 0, 7, 2))
    assert server.requests[0].headers["authorization"] == "Bearer sesame"
    assert server.requests[0].url == "http://judge/v1/chat/completions"


async def test_no_key_sends_no_header():
    server = Server(OK)
    await ask(server.endpoint())
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("structured", "extra"),
    [
        (
            "json_schema",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "judgement", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ("guided_json", {"guided_json": SCHEMA}),
        ("none", {}),
    ],
)
async def test_the_schema_is_asked_for_as_the_server_understands_it(structured, extra):
    server = Server(OK)
    await ask(server.endpoint(structured=structured, temperature=0.5, max_tokens=9))
    plain = {"model": "fake", "messages": list(MESSAGES), "temperature": 0.5, "max_tokens": 9}
    assert server.bodies == [plain | extra]


@pytest.mark.parametrize(
    "hiccup",
    [refuses, *map(httpx.Response, (408, 429, 500, 502, 503, 504))],
    ids=["refused", "408", "429", "500", "502", "503", "504"],
)
async def test_a_hiccup_is_tried_again_after_a_growing_pause(hiccup):
    server = Server(hiccup, hiccup, OK)
    assert (await ask(server.endpoint())).text == "{}"
    first, second = server.pauses
    assert 0.125 <= first <= 0.25 <= second <= 0.5


async def test_a_server_that_says_when_to_come_back_is_taken_at_its_word():
    busy = httpx.Response(429, headers={"Retry-After": "7"})
    server = Server(busy, OK)
    await ask(server.endpoint())
    assert server.pauses == [7.0]


async def test_a_pause_beyond_the_deadline_is_not_waited_for():
    server = Server(httpx.Response(503, headers={"Retry-After": "100"}))
    with pytest.raises(JudgeUnavailable, match=r"after 1 requests: status 503; the next try in 100\.0 s would come"):
        await ask(server.endpoint(), seconds=50.0)
    assert server.pauses == []


async def test_after_all_retries_the_judge_is_unavailable():
    server = Server(httpx.Response(502))
    with pytest.raises(JudgeUnavailable, match=r"judge http://judge: no judgement \(after 3 requests: status 502\)"):
        await ask(server.endpoint(request_retries=2))
    assert len(server.requests) == 3


async def test_a_request_that_hangs_ends_at_its_deadline():
    server = Server(never_answers)
    with pytest.raises(JudgeUnavailable, match=r"after 2 requests: no answer within 0\.05 s"):
        await ask(server.endpoint(request_retries=1, request_seconds=0.05))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_refusal_is_not_tried_again_and_says_its_kind_without_quoting_the_request(status):
    error = {"message": "my secret trajectory is too long", "type": "BadRequestError", "param": "input", "code": 4711}
    server = Server(httpx.Response(status, json={"error": error}))
    with pytest.raises(JudgeUnavailable) as refused:
        await ask(server.endpoint(key="sesame"))
    assert len(server.requests) == 1
    assert f"status {status}: type BadRequestError, code 4711, param input" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("body", ["<html>", '{"choices": []}', "{}", '{"choices": [{"text": "x"}]}'])
async def test_another_kind_of_server_is_told_apart(body):
    server = Server(httpx.Response(200, text=body))
    with pytest.raises(JudgeUnavailable, match="status 200 with a body that is no chat completion"):
        await ask(server.endpoint())
    assert len(server.requests) == 1


async def test_an_answer_that_was_cut_and_one_whose_tokens_nobody_counted():
    choice = {"message": {"content": None}, "finish_reason": "length"}
    server = Server(httpx.Response(200, json={"choices": [choice]}))
    assert await ask(server.endpoint()) == Reply("", False, Usage(1, 1))


async def test_an_open_circuit_sends_nothing_until_its_time_is_over():
    server = Server(httpx.Response(500), httpx.Response(500), OK)
    endpoint = server.endpoint(request_retries=0, breaker={"failures": 2, "open_seconds": 30})
    for _ in range(2):
        with pytest.raises(JudgeUnavailable, match="status 500"):
            await ask(endpoint)
    with pytest.raises(JudgeUnavailable, match=r"the circuit is open .* may try in 30\.0 s"):
        await ask(endpoint)
    assert len(server.requests) == 2
    server.clock = 30.0
    assert (await ask(endpoint)).text == "{}"
    assert endpoint.breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("status", [429, 400, 401])
async def test_a_server_that_answers_keeps_the_circuit_closed(status):
    server = Server(httpx.Response(status))
    endpoint = server.endpoint(request_retries=0, breaker={"failures": 1, "open_seconds": 30})
    with pytest.raises(JudgeUnavailable):
        await ask(endpoint)
    assert endpoint.breaker.state is CircuitState.CLOSED


async def test_a_trial_that_was_cancelled_lets_the_next_one_try():
    server = Server(httpx.Response(500), never_answers, OK)
    endpoint = server.endpoint(request_retries=0, breaker={"failures": 1, "open_seconds": 30})
    with pytest.raises(JudgeUnavailable):
        await ask(endpoint)
    server.clock = 30.0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(endpoint), 0.05)
    assert (await ask(endpoint)).text == "{}"


async def test_no_more_requests_are_in_flight_than_allowed():
    there, most = 0, 0
    go_on = asyncio.Event()

    async def counts(request):
        nonlocal there, most
        there += 1
        most = max(most, there)
        if there == 2:
            go_on.set()
        await go_on.wait()
        there -= 1
        return OK

    endpoint = Server(counts).endpoint(requests_in_flight=2)
    await asyncio.gather(*(ask(endpoint) for _ in range(6)))
    assert most == 2


def test_the_error_pickles_and_is_one_of_a_lost_scorer():
    error = JudgeUnavailable("http://judge", "after 3 requests: status 502")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert isinstance(error, ScorerUnavailable)
