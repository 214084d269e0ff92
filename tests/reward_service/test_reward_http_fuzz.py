"""Whatever is sent to the reward service, it never answers that it failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_service.api import build_app
from reward_service.config import LinearShaping, OutcomeShaping, PaperShaping, RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tests.reward_service.builders import trajectory
from tests.reward_service.live import BY_OVERLAP, MARKED, PROMPT
from tests.reward_service.test_compat_nemo_gym import CALL, MESSAGE, OUTPUT, row
from tests.reward_service.test_reward_messages import USER, asked, calls, result, said
from tests.tool_sandbox.hostile_bytes import BODIES, ENCODING, HEADER, TYPE, spoilt, status
from tool_sandbox.http.keys import ApiKeys, digest

KEYS = ApiKeys.parse(f"anna:{digest('hush')}")
KEY: dict[str, bytes | None] = {"Authorization": b"Bearer hush"}
REFUSED = {400, 409, 413, 415, 422}
RECIPES = {
    "linear": RewardConfig(shaping=LinearShaping()),
    "overlap": BY_OVERLAP,
    "paper": RewardConfig(shaping=PaperShaping()),
    "outcome": RewardConfig(shaping=OutcomeShaping()),
}
APPS = {name: build_app(RewardService(Recipe(config)), KEYS) for name, config in RECIPES.items()}
APP = APPS["linear"]

TOOL = {"type": "function", "function": {"name": "price", "description": "", "parameters": {"type": "object"}}}
CONVERSATION = {
    "id": "chat",
    "task": {"id": "q", "ground_truth": {"answer": 42}},
    "messages": [
        USER,
        calls(asked("a"), asked("b", arguments={"item": "lamp"})),
        result("b", [{"type": "text", "text": "42"}], status="ok"),
        result("a", "{'error': 'boom'}", is_error=False),
        {"role": "assistant", "content": None, "function_call": {"name": "price", "arguments": "{}"}},
        {"role": "function", "name": "price", "content": "42"},
        said("42"),
    ],
    "tools": [TOOL],
}
STEPS = {"schema_version": 1, "reward_version": None, "trajectories": [trajectory(), trajectory("b")]}
MESSAGES = {"options": {"explain": True}, "trajectories": [CONVERSATION, trajectory("b")]}
GOOD: dict[str, tuple[str, Any]] = {
    "steps": ("/v1/score", STEPS),
    "messages": ("/v1/score", MESSAGES),
    "openrlhf": (
        "/compat/openrlhf/get_reward",
        {"query": [PROMPT + MARKED, PROMPT + "42"], "prompts": [PROMPT, PROMPT], "labels": ["42", {"answer": "42"}]},
    ),
    "classify": ("/compat/vllm/classify", {"model": "m", "input": PROMPT + MARKED}),
    "verify": ("/verify", row(CALL, OUTPUT, MESSAGE, expected_answer="42")),
}


def sent(app: Any, path: str, request: Any) -> int:
    return status(app, "POST", path, KEY | {"Content-Type": b"application/json"}, json.dumps(request).encode())


@given(HEADER)
def test_any_authorization_but_the_right_one_is_refused(header):
    assert status(APP, "POST", "/v1/score", {"Authorization": header}, b"{") == 401


@given(st.sampled_from(sorted({path for path, _ in GOOD.values()} | {"/v1/score/batches"})), BODIES, TYPE, ENCODING)
def test_any_body_is_an_answer_or_a_refusal(path, body, kind, encoding):
    headers = KEY | {"Content-Type": kind, "Content-Encoding": encoding}
    assert status(APP, "POST", path, headers, body) in {200, *REFUSED}


@pytest.mark.parametrize("recipe", list(APPS))
@pytest.mark.parametrize("form", list(GOOD))
@settings(max_examples=50)
@given(data=st.data())
def test_a_good_request_with_something_bad_in_it_is_an_answer_or_a_refusal(form, recipe, data):
    path, good = GOOD[form]
    assert sent(APPS[recipe], path, data.draw(spoilt(good))) in {200, *REFUSED}


@settings(max_examples=100)
@given(spoilt(MESSAGES | {"options": {}}) | spoilt(STEPS))
def test_a_batch_with_something_bad_in_it_is_read_or_refused(request):
    # 501: nothing is kept here, which is told once the batch has been read.
    assert sent(APP, "/v1/score/batches", request) in {501, *REFUSED}


@pytest.mark.parametrize("form", list(GOOD))
def test_a_good_request_is_answered(form):
    path, good = GOOD[form]
    assert sent(APPS["overlap"], path, good) == 200
