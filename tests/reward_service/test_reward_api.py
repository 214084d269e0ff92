"""The HTTP contract; every test runs against FastAPI in process and against Ray Serve over a socket."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest

from reward_service.api import build_app
from reward_service.client import RewardClient
from reward_service.config import LinearShaping, RewardConfig
from reward_service.errors import RewardRejected, RewardUnauthorized, RewardVersionMismatch, ScorerUnavailable
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import MAX_BODY_BYTES, ScoredItem, ScoreRequest
from tests.reward_service.builders import call_step, item, trajectory, version_of
from tool_sandbox.http.keys import ApiKeys, digest

VERSION = version_of(LinearShaping())
JSON = {"Content-Type": "application/json"}

# What a caller in any language sends: two trajectories; the second cannot be scored, its task has no distance.
RAW_REQUEST = b"""
{
  "schema_version": 1,
  "reward_version": null,
  "trajectories": [
    {
      "id": "iteration-3/task-7/0",
      "task": {"id": "ledger/L1/train/7", "level": "L1",
               "ground_truth": {"answer": "42", "state_hash": null, "minimum_calls": 2}},
      "steps": [
        {"index": 0, "call": {"name": "order_item", "arguments": {"order": "A17"}},
         "status": "ok", "observation": "lamp", "progress": {"before": 2, "after": 1}},
        {"index": 1, "parse_error": "no closing tag", "status": "invalid_arguments", "observation": "error"},
        {"index": 2, "call": {"name": "price", "arguments": {"item": "lamb"}},
         "status": "tool_error", "observation": "error: no lamb", "progress": {"before": 1, "after": 1}},
        {"index": 3, "call": {"name": "price", "arguments": {"item": "lamp"}},
         "status": "infra_error", "observation": "", "progress": null},
        {"index": 4, "answer": "42."}
      ],
      "stop": "answered",
      "final_state_hash": null
    },
    {
      "id": "elsewhere",
      "task": {"id": "web/1", "level": "web", "ground_truth": {"answer": "Paris"}},
      "steps": [{"index": 0, "call": {"name": "search", "arguments": {"q": "capital"}}, "status": "ok"},
                {"index": 1, "answer": "Paris"}],
      "stop": "answered"
    }
  ]
}
"""


async def test_the_contract_in_raw_json(http):
    response = await http.post("/v1/score", content=RAW_REQUEST, headers=JSON)
    assert response.status_code == 200
    answer = response.json()
    assert answer["reward_version"] == VERSION
    first, second = answer["results"]
    assert [(step["reward"], step["signals"]) for step in first["steps"]] == [
        (0.5, {"success": 1.0, "contribution": 1.0, "solved": None}),
        (-0.1, {"success": 0.0, "contribution": 0.0, "solved": None}),
        (-0.1, {"success": 0.0, "contribution": 0.0, "solved": None}),
        (None, {"success": None, "contribution": None, "solved": None}),
        (1.0, {"success": None, "contribution": None, "solved": 1.0}),
    ]
    assert first["steps"][0] == {
        "index": 0,
        "tool_call_id": None,
        "reward": 0.5,
        "signals": {"success": 1.0, "contribution": 1.0, "solved": None},
        "components": [
            {"name": "step_cost", "raw": 1.0, "weight": -0.1, "value": -0.1},
            {"name": "contribution", "raw": 1.0, "weight": 0.6, "value": 0.6},
        ],
        "why": None,
        "votes": {},
    }
    assert first["steps"][3]["components"] == []
    assert (first["id"], first["status"], first["solved"], first["error"]) == (
        *("iteration-3/task-7/0", "ok"),
        *(1.0, None),
    )
    # 0.5 − 0.1 − 0.1 + 1; the lost call abstains and adds nothing.
    assert first["total"] == pytest.approx(1.3)
    assert second["status"] == "error"
    assert (second["steps"], second["solved"], second["error"]["kind"]) == ([], None, "data")
    assert "trajectory 'elsewhere': step 0: no progress record" in second["error"]["message"]


async def test_the_components_of_a_step_add_up_to_its_reward(http):
    response = await http.post("/v1/score", content=RAW_REQUEST, headers=JSON)
    for step in response.json()["results"][0]["steps"]:
        if step["reward"] is not None:
            assert sum(part["value"] for part in step["components"]) == pytest.approx(step["reward"])


async def test_why_is_told_on_request(http):
    body = {"options": {"explain": True}, "trajectories": [trajectory()]}
    first, last = (await http.post("/v1/score", json=body)).json()["results"][0]["steps"]
    assert first["why"] == "the call ended ok; calls still needed: 1 before, 0 after"
    assert last["why"] == "the answer is right"


async def test_a_strict_request_with_one_bad_trajectory_is_refused_whole_and_says_which(http):
    nowhere = trajectory("nowhere", steps=[call_step(0) | {"progress": None}, {"index": 1, "answer": "42"}])
    body = {"options": {"strict": True}, "trajectories": [trajectory("good"), nowhere]}
    problem = assert_problem(await http.post("/v1/score", json=body), 422)
    assert problem["type"] == "urn:steptool:problem:items-refused"
    assert list(problem["reasons"]) == ["nowhere"]
    assert "no progress record" in problem["reasons"]["nowhere"]


async def test_chat_messages_as_an_api_returns_them_are_scored_call_by_call(http):
    asked = {"id": "call_1", "type": "function", "function": {"name": "price", "arguments": '{"item": "lamp"}'}}
    turn = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [asked]}
    messages = [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "What is a lamp?"},
        turn,
        {"role": "tool", "tool_call_id": "call_1", "content": "error: no lamp"},
        {"role": "assistant", "content": "42", "refusal": None},
    ]
    task = {"id": "q", "ground_truth": {"answer": "42", "minimum_calls": 1}}
    body = {"trajectories": [{"id": "chat", "messages": messages, "task": task}]}
    result = (await http.post("/v1/score", json=body)).json()["results"][0]
    # Nobody knows how far the call went, and the default shaping weighs that.
    assert (result["status"], result["error"]["kind"]) == ("error", "data")
    assert "no progress record" in result["error"]["message"]


async def test_results_keep_the_order_of_the_request(http):
    names = [f"t-{n}" for n in (3, 1, 2)]
    response = await http.post("/v1/score", json={"trajectories": [trajectory(name) for name in names]})
    assert [result["id"] for result in response.json()["results"]] == names


async def test_the_service_says_what_it_scores_by(http):
    (card,) = (await http.get("/v1/models")).json()["data"]
    assert card["reward_version"] == VERSION
    assert card["shaping"] == LinearShaping().model_dump()
    assert card["signals"] == {"success": [0, 1], "contribution": [-1, 1], "solved": [0, 1]}
    assert card["limits"]["body_bytes"] == MAX_BODY_BYTES


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/score"])
async def test_nobody_gets_in_without_a_key(http, path, key):
    # The body is broken too: the key is asked for before anything is read.
    method = "POST" if path == "/v1/score" else "GET"
    response = await http.request(method, path, headers={"Authorization": key} | JSON, content=b"{")
    assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_key(http, path):
    response = await http.get(path, headers={"Authorization": ""})
    assert response.status_code == 200


async def test_readiness_names_the_version(http):
    assert (await http.get("/readyz")).json() == {"status": "ready", "reward_version": VERSION}


async def test_another_reward_version_is_a_conflict_that_names_both(http):
    response = await http.post("/v1/score", json={"reward_version": "old", "trajectories": [trajectory()]})
    problem = assert_problem(response, 409)
    assert problem["type"] == "urn:steptool:problem:reward-version-mismatch"
    assert (problem["expected"], problem["found"]) == ("old", VERSION)


async def test_an_unknown_path_and_a_wrong_method_are_problems(http):
    assert_problem(await http.get("/v1/nothing"), 404)
    response = await http.get("/v1/score")
    assert_problem(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "JSON decode error"),
        (b'{"trajectories": [{"id": NaN}]}', "found NaN; expected a finite number"),
        (b'{"trajectories": [{"id": 1e999}]}', "beyond the range of a double"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b'{"trajectories": [], "trajectories": []}', "found the key 'trajectories' more than once"),
        (b'{"trajectories": [{"id": "\\ud800"}]}', "found half of a surrogate pair"),
        (b'{"trajectories": []}', "/trajectories: Tuple should have at least 1 item"),
        (b'{"schema_version": 2, "trajectories": []}', "/schema_version: Input should be 1"),
        (b'{"trajectory": []}', "/trajectory: Extra inputs are not permitted"),
    ],
    ids=["cut", "nan", "infinite", "deep", "twice", "half", "empty", "schema", "unknown key"],
)
async def test_a_body_outside_the_contract_is_unprocessable_and_says_where(http, body, detail):
    problem = assert_problem(await http.post("/v1/score", content=body, headers=JSON), 422)
    assert detail in problem["detail"]


async def test_a_refusal_does_not_echo_what_was_sent(http):
    for strict, status in ((True, 422), (False, 200)):
        body = {"options": {"strict": strict}, "trajectories": [trajectory(stop="my secret prompt")]}
        response = await http.post("/v1/score", json=body)
        assert response.status_code == status
        assert "my secret prompt" not in response.text


async def test_a_body_over_the_limit_is_too_large(http):
    body = b'{"trajectories": "' + b"x" * MAX_BODY_BYTES + b'"}'
    problem = assert_problem(await http.post("/v1/score", content=body, headers=JSON), 413)
    assert "send fewer trajectories" in problem["detail"]


async def test_a_body_may_come_in_gzip(http):
    body = gzip.compress(RAW_REQUEST)
    response = await http.post("/v1/score", content=body, headers=JSON | {"Content-Encoding": "gzip"})
    assert [result["status"] for result in response.json()["results"]] == ["ok", "error"]


async def test_a_bomb_is_too_large(http):
    body = gzip.compress(b" " * MAX_BODY_BYTES)
    assert len(body) < 20_000
    assert_problem(await http.post("/v1/score", content=body, headers=JSON | {"Content-Encoding": "gzip"}), 413)


async def test_a_body_that_is_not_called_json_is_refused(http):
    assert_problem(await http.post("/v1/score", content=RAW_REQUEST), 415)


async def test_a_caller_that_sends_no_headers_puts_its_key_into_the_url(service):
    mine, wrong = (service.url.replace("://", f"://{name}:{service.key}@") for name in ("tests", "others"))
    async with httpx.AsyncClient(transport=service.transport(), timeout=30) as client:
        assert (await client.get(f"{mine}/v1/models")).status_code == 200
        assert_problem(await client.get(f"{wrong}/v1/models"), 401)


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/v1/score", 405), ("/readyz", 200)])
async def test_every_answer_has_the_id_of_its_request_once(http, path, status):
    response = await http.get(path, headers={"X-Request-Id": "mine-1"})
    assert (response.status_code, response.headers.get_list("x-request-id")) == (status, ["mine-1"])
    own = (await http.get(path)).headers.get_list("x-request-id")
    assert len(own) == 1
    assert own != ["mine-1"]


async def test_the_client_gets_typed_rewards(service):
    async with RewardClient(service.url, service.key, transport=service.transport()) as client:
        response = await client.score(ScoreRequest(trajectories=(item("a"), item("b"))))
    assert client.reward_version == response.reward_version == VERSION
    assert [result.id for result in response.results] == ["a", "b"]
    assert isinstance(response.results[0], ScoredItem)
    assert [step.reward for step in response.results[0].steps] == pytest.approx([0.5, 1.0])


async def test_the_client_raises_what_it_was_refused_with(service):
    async with RewardClient(service.url, service.key, transport=service.transport()) as client:
        with pytest.raises(RewardVersionMismatch, match="began with 'old'"):
            await client.score(ScoreRequest(reward_version="old", trajectories=(item(),)))
    async with RewardClient(service.url, "wrong", transport=service.transport()) as client:
        with pytest.raises(RewardUnauthorized, match="unknown API key"):
            await client.score(ScoreRequest(trajectories=(item(),)))
    async with RewardClient(f"{service.url}/v2", service.key, transport=service.transport()) as client:
        with pytest.raises(RewardRejected, match="404"):
            await client.score(ScoreRequest(trajectories=(item(),)))


async def test_a_long_trajectory_with_full_texts_fits(http):
    steps = [call_step(n) | {"observation": "x" * 10_000} for n in range(200)]
    response = await http.post("/v1/score", json={"trajectories": [trajectory(steps=steps, stop="step_budget")]})
    assert response.status_code == 200
    assert len(response.json()["results"][0]["steps"]) == 200


def assert_problem(response, status):
    """An RFC 9457 document with its status inside; returns it."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = json.loads(response.content)
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert document["status"] == status
    return document


class FailingScorer(Recipe):
    """Fails on every trajectory, with one error."""

    error: Exception

    async def score(self, item, plug_in_seconds=None):
        raise self.error


def failing(error: Exception) -> httpx.AsyncClient:
    kind = type("Failing", (FailingScorer,), {"error": error})
    app = build_app(RewardService(kind(RewardConfig())), ApiKeys.nobody_asked())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://rewards")


async def test_a_lost_scorer_is_an_error_of_each_trajectory_and_the_service_is_not_ready():
    async with failing(ScorerUnavailable("judge: no reply within 30 s")) as http:
        (result,) = (await http.post("/v1/score", json={"trajectories": [trajectory()]})).json()["results"]
        assert (result["status"], result["steps"], result["solved"]) == ("error", [], None)
        assert result["error"] == {"kind": "infrastructure", "message": "judge: no reply within 30 s", "pointer": None}
        response = await http.get("/readyz")
        assert_problem(response, 503)
        assert response.headers["retry-after"] == "1"


async def test_a_bug_of_ours_is_a_server_error_that_keeps_its_secrets():
    async with failing(RuntimeError("password is 1234")) as http:
        response = await http.post("/v1/score", json={"trajectories": [trajectory()]})
        assert_problem(response, 500)
        assert "1234" not in response.text


async def test_a_key_scores_or_reads_as_far_as_its_scope_and_its_quota_go():
    granted = {"score": ":score:2 trajectories/min", "read": ":read:1/min"}
    keys = ApiKeys.parse(",".join(f"{name}:{digest(name)}{rest}" for name, rest in granted.items()))
    app = build_app(RewardService(Recipe(RewardConfig(shaping=LinearShaping()))), keys)
    request = {"trajectories": [trajectory("a"), trajectory("b")]}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rewards") as http:
        assert_problem(await http.post("/v1/score", json=request, auth=("read", "read")), 403)
        assert_problem(await http.get("/v1/models", auth=("score", "score")), 403)
        assert (await http.get("/v1/models", auth=("read", "read"))).status_code == 200
        assert_problem(await http.get("/v1/models", auth=("read", "read")), 429)
        assert (await http.post("/v1/score", json=request, auth=("score", "score"))).status_code == 200
        refused = await http.post("/v1/score", json=request, auth=("score", "score"))
    assert_problem(refused, 429)
    # Two trajectories a minute: the second pair waits for a minute, less what the test has taken.
    assert 30 < int(refused.headers["retry-after"]) <= 60
