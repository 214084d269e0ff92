"""The client against a transport that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from typing import Any

import httpx
import pytest

from reward_service import errors
from reward_service.client import RewardClient, chunks
from reward_service.config import LinearShaping
from reward_service.errors import (
    RewardProtocolError,
    RewardRejected,
    RewardRequestError,
    RewardUnauthorized,
    RewardUnavailable,
    RewardVersionMismatch,
)
from reward_service.scoring import score
from reward_service.wire import MAX_TRAJECTORIES, ScoredItem, ScoreRequest, ScoreResponse
from tests.reward_service.builders import item

REQUEST = ScoreRequest(trajectories=(item("a"), item("b")))


class Script:
    """Plays replies one after the other and then stays with the last; keeps what it was asked."""

    def __init__(self, *replies):
        self.replies: list[Any] = list(replies)
        self.asked: list[ScoreRequest] = []
        self.headers: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(ScoreRequest.model_validate_json(request.content))
        self.headers.append(request.headers)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply if isinstance(reply, httpx.Response) else reply(self.asked[-1])

    def client(self, retries=3, timeout_seconds=10.0):
        return RewardClient("http://rewards/", "key", timeout_seconds, retries, httpx.MockTransport(self))


def scored(request: ScoreRequest, version: str = "v1") -> httpx.Response:
    results = tuple(ScoredItem.of(score(item, LinearShaping())) for item in request.trajectories)
    return httpx.Response(200, content=ScoreResponse(reward_version=version, results=results).model_dump_json())


def refuses_connection(request: ScoreRequest) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def problem(status: int, **members) -> httpx.Response:
    headers = {"Content-Type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(members), headers=headers)


async def test_the_key_travels_as_bearer():
    script = Script(scored)
    await script.client().score(REQUEST)
    assert script.headers[0]["authorization"] == "Bearer key"


@pytest.mark.parametrize(
    "hiccup",
    [refuses_connection, httpx.Response(429), httpx.Response(503, headers={"Retry-After": "0"}), httpx.Response(502)],
    ids=["refused", "429", "503", "502"],
)
async def test_a_hiccup_is_tried_again(hiccup):
    script = Script(hiccup, hiccup, scored)
    response = await script.client().score(REQUEST)
    assert [result.id for result in response.results] == ["a", "b"]
    assert len(script.asked) == 3


async def test_the_client_waits_as_long_as_it_is_asked_to():
    script = Script(httpx.Response(429, headers={"Retry-After": "1"}), scored)
    start = asyncio.get_running_loop().time()
    await script.client().score(REQUEST)
    assert asyncio.get_running_loop().time() - start >= 1.0


async def test_after_all_retries_the_service_is_unavailable():
    script = Script(httpx.Response(503))
    with pytest.raises(RewardUnavailable, match=r"no answer after 3 attempts \(status 503\)"):
        await script.client(retries=2).score(REQUEST)


async def test_the_deadline_bounds_all_retries_together():
    script = Script(httpx.Response(429, headers={"Retry-After": "30"}))
    start = asyncio.get_running_loop().time()
    with pytest.raises(RewardUnavailable, match=r"after 1 attempts \(deadline of 0.2 s; last: status 429\)"):
        await script.client(timeout_seconds=0.2).score(REQUEST)
    assert asyncio.get_running_loop().time() - start < 5.0


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(401, detail="unknown API key"), RewardUnauthorized),
        (httpx.Response(403, text="forbidden by the ingress"), RewardUnauthorized),
        (problem(422, detail="/trajectories: too many"), RewardRejected),
        (problem(500, detail="failed"), RewardRejected),
        (problem(409, detail="of another kind"), RewardRejected),
        (httpx.Response(200, text="<html>"), RewardProtocolError),
    ],
)
async def test_a_refusal_is_not_tried_again(reply, error):
    script = Script(reply)
    with pytest.raises(error):
        await script.client().score(REQUEST)
    assert len(script.asked) == 1


async def test_a_request_that_cannot_be_sent_is_not_tried_again():
    async with RewardClient("localhost:8000", "key") as client:
        with pytest.raises(RewardRequestError, match="check the URL and the key"):
            await client.score(REQUEST)


async def test_the_first_answer_pins_the_version_and_later_requests_insist_on_it():
    script = Script(scored)
    client = script.client()
    await client.score(REQUEST)
    await client.score(REQUEST)
    assert [asked.reward_version for asked in script.asked] == [None, "v1"]


async def test_a_service_that_changed_its_version_is_caught_even_if_it_does_not_say_so():
    client = Script(scored, lambda request: scored(request, "v2")).client()
    await client.score(REQUEST)
    with pytest.raises(RewardVersionMismatch, match="service has 'v2', this run began with 'v1'"):
        await client.score(REQUEST)


def without_the_last(request):
    return scored(ScoreRequest(trajectories=request.trajectories[:-1]))


def in_another_order(request):
    return scored(ScoreRequest(trajectories=request.trajectories[::-1]))


def with_a_step_too_few(request):
    short = item("a", steps=[{"index": 0, "answer": "42"}])
    return scored(ScoreRequest(trajectories=(short, *request.trajectories[1:])))


@pytest.mark.parametrize("reply", [without_the_last, in_another_order, with_a_step_too_few])
async def test_an_answer_to_another_question_is_never_taken(reply):
    with pytest.raises(RewardProtocolError, match=r"results for 2 trajectories"):
        await Script(reply).client().score(REQUEST)


def test_chunks_keep_the_order_and_both_limits():
    items = [item(f"t-{n}") for n in range(5)]
    size = len(items[0].model_dump_json())
    by_count = [[item.id for item in chunk] for chunk in chunks(items, max_items=2)]
    by_size = [[item.id for item in chunk] for chunk in chunks(items, max_bytes=3 * size + 3)]
    assert by_count == [["t-0", "t-1"], ["t-2", "t-3"], ["t-4"]]
    assert by_size == [["t-0", "t-1", "t-2"], ["t-3", "t-4"]]
    assert [len(chunk) for chunk in chunks(items, max_bytes=1)] == [1] * 5


async def test_a_request_with_long_texts_goes_out_in_parts_that_fit():
    long = "x" * 60_000
    steps = [{"index": 0, "call": {"name": "f", "arguments": {"text": long}}, "status": "ok", "observation": long,
              "progress": {"before": 1, "after": 1}}, {"index": 1, "answer": long}]  # fmt: skip
    script = Script(scored)
    trajectories = tuple(item(f"t-{n}", steps=steps) for n in range(MAX_TRAJECTORIES))
    response = await script.client().score(ScoreRequest(trajectories=trajectories))
    assert len(script.asked) > 1
    assert [result.id for result in response.results] == [item.id for item in trajectories]


ERRORS = [
    errors.RewardUnavailable("http://rewards", 3, "status 503"),
    errors.RewardVersionMismatch(expected="a", found="b"),
    errors.RewardRejected(422, "too many"),
    errors.RewardUnauthorized("who?"),
    errors.RewardProtocolError("what?"),
    errors.UnscorableTrajectory("t-1", "no record"),
    errors.ScorerUnavailable("gone"),
    errors.ServiceNotStarted("no room"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_pickles(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("module", ["reward_service.client", "reward_service.service", "actors.scoring"])
def test_the_client_installs_alone(module):
    heavy = ("torch", "vllm", "ray", "fastapi", "transformers")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"
