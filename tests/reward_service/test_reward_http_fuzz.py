"""Whatever is sent to the reward service, it never answers that it failed."""

from __future__ import annotations

import json

from hypothesis import given

from reward_service.api import build_app
from reward_service.config import LinearShaping, RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tests.reward_service.builders import trajectory
from tests.tool_sandbox.hostile_bytes import BODIES, ENCODING, HEADER, TYPE, spoilt, status
from tool_sandbox.http.keys import ApiKeys, digest

APP = build_app(RewardService(Recipe(RewardConfig(shaping=LinearShaping()))), ApiKeys.parse(f"anna:{digest('hush')}"))
KEY: dict[str, bytes | None] = {"Authorization": b"Bearer hush"}
REFUSED = {400, 409, 413, 415, 422}
GOOD = {"schema_version": 1, "reward_version": None, "trajectories": [trajectory(), trajectory("b")]}


@given(HEADER)
def test_any_authorization_but_the_right_one_is_refused(header):
    assert status(APP, "POST", "/v1/score", {"Authorization": header}, b"{") == 401


@given(BODIES, TYPE, ENCODING)
def test_any_body_is_an_answer_or_a_refusal(body, kind, encoding):
    headers = KEY | {"Content-Type": kind, "Content-Encoding": encoding}
    assert status(APP, "POST", "/v1/score", headers, body) in {200, *REFUSED}


@given(spoilt(GOOD))
def test_a_good_request_with_something_bad_in_it_is_an_answer_or_a_refusal(request):
    body = json.dumps(request).encode()
    assert status(APP, "POST", "/v1/score", KEY | {"Content-Type": b"application/json"}, body) in {200, *REFUSED}


def test_a_good_request_is_answered():
    body = json.dumps(GOOD).encode()
    assert status(APP, "POST", "/v1/score", KEY | {"Content-Type": b"application/json"}, body) == 200
