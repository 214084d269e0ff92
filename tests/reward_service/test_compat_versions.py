"""The routes of other protocols take `?reward_version=`, since their bodies have no place for it."""

from __future__ import annotations

import pytest

from reward_service.api import build_app
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import VERSION_MISMATCH
from tests.reward_service.kept import client_of
from tests.reward_service.live import BY_OVERLAP, MARKED, PROMPT
from tests.reward_service.test_compat_nemo_gym import CALL, MESSAGE, OUTPUT, row
from tool_sandbox.http.keys import ApiKeys

VERSION = Recipe(BY_OVERLAP).version
APP = build_app(RewardService(Recipe(BY_OVERLAP)), ApiKeys.nobody_asked())
BODIES = {
    "/compat/openrlhf/get_reward": {"query": [PROMPT + MARKED], "prompts": [PROMPT], "labels": ["42"]},
    "/compat/vllm/classify": {"input": PROMPT + MARKED},
    "/verify": row(CALL, OUTPUT, MESSAGE, expected_answer="42"),
}


@pytest.mark.parametrize("path", list(BODIES))
async def test_another_version_is_a_conflict_and_the_right_one_or_none_an_answer(path):
    async with client_of(APP) as http:
        for wanted in ({}, {"reward_version": VERSION}):
            assert (await http.post(path, json=BODIES[path], params=wanted)).status_code == 200
        refused = await http.post(path, json=BODIES[path], params={"reward_version": "another"})
        assert (await http.post(path, json=BODIES[path], params={"reward_version": ""})).status_code == 422
    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (409, VERSION_MISMATCH)
    assert (problem["expected"], problem["found"]) == ("another", VERSION)
