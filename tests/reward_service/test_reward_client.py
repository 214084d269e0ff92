"""Both clients against a transport that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from reward_service import errors
from reward_service.breaker import CircuitBreaker
from reward_service.client import RewardClient, SyncRewardClient
from reward_service.client.outgoing import chunks
from reward_service.errors import (
    RewardCircuitOpen,
    RewardProtocolError,
    RewardRejected,
    RewardRequestError,
    RewardUnauthorized,
    RewardUnavailable,
    RewardVersionMismatch,
)
from reward_service.wire import (
    MAX_TRAJECTORIES,
    ConversationItem,
    ScoredItem,
    ScoreOptions,
    ScoreRequest,
    ScoreResponse,
    StepScore,
)
from tests.reward_service.builders import item

REQUEST = ScoreRequest(trajectories=(item("a"), item("b")))


class InThread:
    """A `SyncRewardClient` that a test can await."""

    def __init__(self, *args, **kwargs) -> None:
        self.plain = SyncRewardClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(asyncio.to_thread, getattr(self.plain, name))

    @property
    def reward_version(self) -> str | None:
        return self.plain.reward_version


KINDS: dict[str, Callable[..., Any]] = {"async": RewardClient, "sync": InThread}


class Script:
    """Plays replies one after the other and then stays with the last; keeps what it was asked."""

    def __init__(self, kind: str, *replies) -> None:
        self.kind = KINDS[kind]
        self.replies: list[Any] = list(replies)
        self.asked: list[ScoreRequest] = []
        self.sent: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        packed = request.headers.get("content-encoding") == "gzip"
        body = gzip.decompress(request.content) if packed else request.content
        self.asked.append(ScoreRequest.model_validate_json(body) if body else REQUEST)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        # A copy: a response that one client has read is of no use to the other.
        known = isinstance(reply, httpx.Response)
        return (
            httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
            if known
            else reply(self.asked[-1])
        )

    def client(self, retries=3, timeout_seconds=10.0, **options) -> Any:
        return self.kind("http://rewards/", "key", timeout_seconds, retries, httpx.MockTransport(self), **options)


@pytest.fixture(params=list(KINDS))
def script(request: pytest.FixtureRequest) -> Callable[..., Script]:
    return partial(Script, request.param)


def steps_of(item) -> int:
    return 2 if isinstance(item, ConversationItem) else len(item.steps)


def scored(request: ScoreRequest, version: str = "v1") -> httpx.Response:
    results = tuple(
        ScoredItem(
            id=item.id,
            steps=tuple(StepScore(index=index, reward=0.5, signals={}) for index in range(steps_of(item))),
            solved=None,
            total=0.5 * steps_of(item),
        )
        for item in request.trajectories
    )
    return httpx.Response(200, content=ScoreResponse(reward_version=version, results=results).model_dump_json())


def refuses_connection(request: ScoreRequest) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def problem(status: int, **members) -> httpx.Response:
    headers = {"Content-Type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(members), headers=headers)


async def test_the_key_travels_as_bearer(script):
    played = script(scored)
    await played.client().score(REQUEST)
    assert played.sent[0].headers["authorization"] == "Bearer key"


@pytest.mark.parametrize(
    "hiccup",
    [
        refuses_connection,
        httpx.Response(429),
        httpx.Response(503, headers={"Retry-After": "0"}),
        httpx.Response(502),
        httpx.Response(409, headers={"Retry-After": "0"}),
    ],
    ids=["refused", "429", "503", "502", "409 in flight"],
)
async def test_a_hiccup_is_tried_again(script, hiccup):
    played = script(hiccup, hiccup, scored)
    response = await played.client().score(REQUEST)
    assert [result.id for result in response.results] == ["a", "b"]
    assert len(played.asked) == 3


async def test_a_first_try_that_is_still_at_work_is_waited_for_beyond_all_retries(script):
    in_flight = httpx.Response(409, headers={"Retry-After": "0"})
    played = script(*[in_flight] * 5, httpx.Response(503), in_flight, scored)
    response = await played.client(retries=1).score(REQUEST)
    assert [result.id for result in response.results] == ["a", "b"]
    assert len({sent.headers["idempotency-key"] for sent in played.sent}) == 1
    assert len(played.sent) == 8


async def test_the_client_waits_as_long_as_it_is_asked_to(script):
    played = script(httpx.Response(429, headers={"Retry-After": "1"}), scored)
    start = time.monotonic()
    await played.client().score(REQUEST)
    assert time.monotonic() - start >= 1.0


async def test_after_all_retries_the_service_is_unavailable(script):
    played = script(httpx.Response(503))
    with pytest.raises(RewardUnavailable, match=r"no answer after 3 attempts \(status 503\)"):
        await played.client(retries=2).score(REQUEST)


async def test_no_pause_is_begun_that_the_deadline_would_end(script):
    played = script(httpx.Response(429, headers={"Retry-After": "30"}))
    with pytest.raises(RewardUnavailable, match=r"after 1 attempts \(deadline of 9 s; last: status 429\)"):
        await played.client(timeout_seconds=9).score(REQUEST)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(401, detail="unknown API key"), RewardUnauthorized),
        (httpx.Response(403, text="forbidden by the ingress"), RewardUnauthorized),
        (problem(422, detail="/trajectories: too many"), RewardRejected),
        (problem(500, detail="failed"), RewardRejected),
        (problem(409, detail="of another kind"), RewardRejected),
        (httpx.Response(500, content=b"{", headers={"Content-Type": "application/problem+json"}), RewardRejected),
        (httpx.Response(200, text="<html>"), RewardProtocolError),
    ],
)
async def test_a_refusal_is_not_tried_again(script, reply, error):
    played = script(reply)
    with pytest.raises(error):
        await played.client().score(REQUEST)
    assert len(played.asked) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "http://[::1"])
@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_request_that_cannot_be_sent_is_not_tried_again(kind, url):
    with pytest.raises(RewardRequestError, match="check the URL and the key"):
        await KINDS[kind](url, "key").score(REQUEST)


async def test_the_first_answer_pins_the_version_and_later_requests_insist_on_it(script):
    played = script(scored)
    client = played.client()
    await client.score(REQUEST)
    await client.score(REQUEST)
    assert [asked.reward_version for asked in played.asked] == [None, "v1"]
    assert client.reward_version == "v1"


async def test_a_version_can_be_pinned_from_the_start(script):
    played = script(scored)
    with pytest.raises(RewardVersionMismatch, match="service has 'v1', this run began with 'v0'"):
        await played.client(reward_version="v0").score(REQUEST)
    assert played.asked[0].reward_version == "v0"


async def test_a_service_that_changed_its_version_is_caught_even_if_it_does_not_say_so(script):
    client = script(scored, lambda request: scored(request, "v2")).client()
    await client.score(REQUEST)
    with pytest.raises(RewardVersionMismatch, match="service has 'v2', this run began with 'v1'"):
        await client.score(REQUEST)


def without_the_last(request):
    return scored(request.model_copy(update={"trajectories": request.trajectories[:-1]}))


def in_another_order(request):
    return scored(request.model_copy(update={"trajectories": request.trajectories[::-1]}))


def with_a_step_too_few(request):
    short = item("a", steps=[{"index": 0, "answer": "42"}])
    return scored(request.model_copy(update={"trajectories": (short, *request.trajectories[1:])}))


@pytest.mark.parametrize("reply", [without_the_last, in_another_order, with_a_step_too_few])
async def test_an_answer_to_another_question_is_never_taken(script, reply):
    with pytest.raises(RewardProtocolError, match=r"results for 2 trajectories"):
        await script(reply).client().score(REQUEST)


def test_chunks_keep_the_order_and_both_limits():
    items = [item(f"t-{n}") for n in range(5)]
    size = len(items[0].model_dump_json())
    by_count = [[item.id for item in chunk] for chunk in chunks(items, max_items=2)]
    by_size = [[item.id for item in chunk] for chunk in chunks(items, max_bytes=3 * size + 3)]
    assert by_count == [["t-0", "t-1"], ["t-2", "t-3"], ["t-4"]]
    assert by_size == [["t-0", "t-1", "t-2"], ["t-3", "t-4"]]
    assert [len(chunk) for chunk in chunks(items, max_bytes=1)] == [1] * 5


async def test_a_request_with_long_texts_goes_out_in_parts_that_fit_and_keep_its_options(script):
    long = "x" * 60_000
    steps = [{"index": 0, "call": {"name": "f", "arguments": {"text": long}}, "status": "ok", "observation": long,
              "progress": {"before": 1, "after": 1}}, {"index": 1, "answer": long}]  # fmt: skip
    played = script(scored)
    trajectories = tuple(item(f"t-{n}", steps=steps) for n in range(MAX_TRAJECTORIES))
    options = ScoreOptions(explain=True)
    response = await played.client().score(ScoreRequest(options=options, trajectories=trajectories))
    assert len(played.asked) > 1
    assert [result.id for result in response.results] == [item.id for item in trajectories]
    assert {asked.options.explain for asked in played.asked} == {True}


async def test_the_service_is_given_a_deadline_that_lets_its_answer_arrive(script):
    played = script(httpx.Response(503), scored)
    await played.client(timeout_seconds=10.0).score(REQUEST)
    first, again = (asked.options.deadline_ms for asked in played.asked)
    # Nine tenths of what is left of 10 s; a repetition is the same request.
    assert 0 < first <= 9000
    assert again == first
    own = script(scored)
    await own.client().score(REQUEST.model_copy(update={"options": ScoreOptions(deadline_ms=20_000)}))
    assert own.asked[0].options.deadline_ms == 20_000


async def test_each_chunk_has_a_key_of_its_own_that_its_retries_share(script):
    played = script(httpx.Response(503), httpx.Response(503), scored)
    many = ScoreRequest.model_construct(trajectories=tuple(item(f"t-{n}") for n in range(MAX_TRAJECTORIES + 1)))
    await played.client().score(many)
    keys = [sent.headers["idempotency-key"] for sent in played.sent]
    assert [len(asked.trajectories) for asked in played.asked] == [256, 256, 256, 1]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len(set(keys)) == 2
    # A string of structured headers stands in quotes; 32 hexadecimal digits and 4 hyphens inside.
    assert [(key[0], key[-1], len(key)) for key in keys] == [('"', '"', 38)] * 4


def noise(characters: int) -> str:
    """Text that packs to about a half: each character is one of 16."""
    return "".join(random.Random(7).choices("0123456789abcdef", k=characters))


async def test_a_large_body_is_packed_and_a_small_one_is_not(script):
    played = script(scored)
    client = played.client()
    answer = noise(60_000)
    large = tuple(item(f"t-{n}", steps=[{"index": 0, "answer": answer}]) for n in range(2))
    await client.score(ScoreRequest(trajectories=large))
    await client.score(REQUEST)
    packed, plain = played.sent
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.content) < 80_000 < len(played.asked[0].model_dump_json())
    assert [one.id for one in played.asked[0].trajectories] == ["t-0", "t-1"]
    assert "content-encoding" not in plain.headers


async def test_a_body_that_would_pass_for_a_bomb_goes_as_it_is(script):
    played = script(scored)
    steps = [{"index": 0, "answer": "x" * 65_536}]
    await played.client().score(ScoreRequest(trajectories=tuple(item(f"t-{n}", steps=steps) for n in range(4))))
    assert "content-encoding" not in played.sent[0].headers
    assert len(played.sent[0].content) > 4 * 65_536


async def test_chat_messages_are_scored_as_they_are(script):
    played = script(scored)
    call = {"id": "c-1", "type": "function", "function": {"name": "price", "arguments": '{"item": "lamp"}'}}
    messages = [
        {"role": "user", "content": "How much is the lamp?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c-1", "content": "42"},
        {"role": "assistant", "content": "42"},
    ]
    tools = [{"type": "function", "function": {"name": "price"}}]
    task = {"id": "q1", "ground_truth": {"answer": "42"}}
    result = await played.client().score_messages(messages, tools=tools, task=task)
    assert (result.status, result.total) == ("ok", 1.0)
    (sent,) = json.loads(played.sent[0].content)["trajectories"]
    assert "steps" not in sent
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert sent["messages"][1]["tool_calls"][0]["function"] == call["function"]
    assert (sent["task"]["ground_truth"]["answer"], sent["tools"][0]["function"]["name"]) == ("42", "price")


async def test_the_client_asks_what_the_service_scores_by(script):
    card = {"id": "linear", "reward_version": "v1", "shaping": {}, "measured_by": {}, "signals": {"solved": [0, 1]}}
    played = script(httpx.Response(200, json={"data": [card]}))
    (found,) = (await played.client().models()).data
    assert (found.id, found.reward_version, found.signals) == ("linear", "v1", {"solved": (0.0, 1.0)})
    assert (played.sent[0].method, played.sent[0].url.path) == ("GET", "/v1/models")


async def test_a_ready_service_names_its_version(script):
    played = script(httpx.Response(200, json={"status": "ready", "reward_version": "v1", "more": 1}))
    assert await played.client().ready() == "v1"


@pytest.mark.parametrize("reply", [httpx.Response(503), refuses_connection])
async def test_a_service_that_is_not_ready_is_asked_once(script, reply):
    played = script(reply)
    with pytest.raises(RewardUnavailable, match="no answer after 1 attempts"):
        await played.client().ready()
    assert len(played.sent) == 1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_after_failed_calls_nobody_is_asked_until_a_trial_shows_that_it_pays(script):
    clock = Clock()
    played = script(httpx.Response(503), httpx.Response(503), scored)
    client = played.client(retries=0, breaker=CircuitBreaker(failures=2, open_seconds=30, clock=clock))
    for _ in range(2):
        with pytest.raises(RewardUnavailable, match="status 503"):
            await client.score(REQUEST)
    clock.now = 10.0
    with pytest.raises(RewardCircuitOpen, match="next trial is due in 20 s"):
        await client.score(REQUEST)
    assert len(played.sent) == 2
    clock.now = 30.0
    assert (await client.score(REQUEST)).reward_version == "v1"
    assert len(played.sent) == 3


async def test_a_service_that_says_that_it_is_busy_does_not_open_the_circuit(script):
    played = script(httpx.Response(429))
    client = played.client(retries=0, breaker=CircuitBreaker(failures=1))
    for _ in range(3):
        with pytest.raises(RewardUnavailable, match="status 429"):
            await client.score(REQUEST)
    assert len(played.sent) == 3


async def test_a_request_that_is_still_at_work_at_the_deadline_does_not_open_the_circuit(script):
    played = script(httpx.Response(409, headers={"Retry-After": "1"}))
    client = played.client(timeout_seconds=1.0, breaker=CircuitBreaker(failures=1))
    for _ in range(3):
        with pytest.raises(RewardUnavailable, match=r"after 1 attempts \(deadline of 1 s; last: status 409\)"):
            await client.score(REQUEST)
    assert len(played.sent) == 3


async def test_a_refusal_shows_that_the_service_is_there(script):
    played = script(httpx.Response(503), problem(422, detail="no"), httpx.Response(503), scored)
    client = played.client(retries=0, breaker=CircuitBreaker(failures=2))
    for error in (RewardUnavailable, RewardRejected, RewardUnavailable):
        with pytest.raises(error):
            await client.score(REQUEST)
    assert (await client.score(REQUEST)).reward_version == "v1"


async def test_readiness_is_asked_for_while_the_circuit_is_open(script):
    played = script(httpx.Response(503), httpx.Response(200, json={"status": "ready", "reward_version": "v1"}))
    client = played.client(retries=0, breaker=CircuitBreaker(failures=1))
    with pytest.raises(RewardUnavailable):
        await client.score(REQUEST)
    assert await client.ready() == "v1"


async def test_a_cancelled_trial_leaves_room_for_the_next():
    clock, asked = Clock(), asyncio.Event()

    async def hangs_once(request: httpx.Request) -> httpx.Response:
        if clock.now == 0.0:
            return httpx.Response(503)
        if not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        return scored(REQUEST)

    breaker = CircuitBreaker(failures=1, open_seconds=1, clock=clock)
    client = RewardClient("http://rewards", None, retries=0, transport=httpx.MockTransport(hangs_once), breaker=breaker)
    with pytest.raises(RewardUnavailable):
        await client.score(REQUEST)
    clock.now = 1.0
    trial = asyncio.create_task(client.score(REQUEST))
    await asked.wait()
    with pytest.raises(RewardCircuitOpen):
        await client.score(REQUEST)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert (await client.score(REQUEST)).reward_version == "v1"


@pytest.mark.parametrize("kind", list(KINDS))
async def test_an_answer_that_does_not_come_in_time_is_given_up(kind):
    # Connections wait in the queue of a server that never looks at them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = KINDS[kind](f"http://127.0.0.1:{silent.getsockname()[1]}", None, timeout_seconds=0.2)
        with pytest.raises(RewardUnavailable, match=r"after 1 attempts \(deadline of 0.2 s; last: ReadTimeout"):
            await client.score(REQUEST)
        await (client.close() if kind == "sync" else client.aclose())


ERRORS = [
    errors.RewardUnavailable("http://rewards", 3, "status 503"),
    errors.RewardCircuitOpen("http://rewards", 12.5),
    errors.RewardVersionMismatch(expected="a", found="b"),
    errors.RewardRejected(422, "too many"),
    errors.RewardUnauthorized("who?"),
    errors.RewardProtocolError("what?"),
    errors.RewardAbstained("t-1", "mend the scorer"),
    errors.UnscorableTrajectory("t-1", "no record"),
    errors.ScorerUnavailable("gone"),
    errors.ServiceNotStarted("no room"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_pickles(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


SLIM = [
    "reward_service.client",
    "reward_service.adapters.verl",
    "reward_service.adapters.trl",
    "reward_service.service",
    "actors.scoring",
]


@pytest.mark.parametrize("module", SLIM)
def test_the_client_installs_alone(module):
    heavy = ("torch", "vllm", "ray", "fastapi", "transformers", "sqlalchemy", "verl", "trl")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"
