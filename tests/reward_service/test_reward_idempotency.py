"""`Idempotency-Key` over HTTP: sent twice, answered alike."""

from __future__ import annotations

import asyncio

import pytest

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.errors import ScorerUnavailable
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.store.opening import open_store
from tests.reward_service.builders import trajectory
from tests.reward_service.kept import KEYS, client_of, kept_in, replica

KEY = {"Idempotency-Key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}
BODY = {"trajectories": [trajectory()]}


async def test_a_repetition_gets_the_first_answer_byte_by_byte_also_after_another_recipe_came(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        first = await http.post("/v1/score", json=BODY, headers=KEY)
    async with replica(kept_in(tmp_path, shaping={"kind": "outcome_only"})) as http:
        again = await http.post("/v1/score", json=BODY, headers=KEY)
        other = await http.post("/v1/score", json=BODY)
    assert again.status_code == first.status_code == 200
    assert again.content == first.content != other.content


async def test_a_batch_that_is_sent_twice_is_one_batch(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        answers = [await http.post("/v1/score/batches", json=BODY, headers=KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[0].headers["location"] == answers[1].headers["location"]


async def test_a_key_of_another_request_is_refused(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        await http.post("/v1/score", json=BODY, headers=KEY)
        changed = await http.post("/v1/score", json={"trajectories": [trajectory("another")]}, headers=KEY)
        elsewhere = await http.post("/v1/score/batches", json=BODY, headers=KEY)
    assert [changed.status_code, elsewhere.status_code] == [422, 422]
    assert "belongs to another request" in changed.json()["detail"]


async def test_two_callers_may_have_the_same_key(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        await http.post("/v1/score", json=BODY, headers=KEY)
        other = await http.post(
            "/v1/score", json={"trajectories": [trajectory("b")]}, headers=KEY, auth=("bert", "quiet")
        )
    assert other.json()["results"][0]["id"] == "b"


@pytest.mark.parametrize("key", ['"open', '""', "two words", '"ü"'.encode(), '"' + "k" * 256 + '"'])
async def test_a_key_that_is_none_is_refused_and_says_what_one_is(tmp_path, key):
    async with replica(kept_in(tmp_path)) as http:
        response = await http.post("/v1/score", json=BODY, headers={"Idempotency-Key": key})
    assert response.status_code == 400
    assert "expected 1 to 255 characters in quotes" in response.json()["detail"]


async def test_quotes_around_the_key_change_nothing(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        await http.post("/v1/score", json=BODY, headers={"Idempotency-Key": '"k-1"'})
        other = await http.post(
            "/v1/score", json={"trajectories": [trajectory("b")]}, headers={"Idempotency-Key": "k-1"}
        )
    assert other.status_code == 422


class Slow(Recipe):
    """A recipe that waits until it may go on, and says so."""

    def __init__(self) -> None:
        super().__init__(RewardConfig())
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        self.tries = 0

    async def score(self, item, plug_in_seconds=None):
        self.tries += 1
        self.began.set()
        async with asyncio.timeout(20):
            await self.may_end.wait()
        return await super().score(item)


async def test_a_repetition_that_comes_too_early_is_told_when_to_come_back(tmp_path):
    recipe = Slow()
    async with (
        await open_store(kept_in(tmp_path).store) as store,
        client_of(build_app(RewardService(recipe), KEYS, store=store)) as http,
    ):
        first = asyncio.create_task(http.post("/v1/score", json=BODY, headers=KEY))
        async with asyncio.timeout(20):
            await recipe.began.wait()
        early = await http.post("/v1/score", json=BODY, headers=KEY)
        recipe.may_end.set()
        answer = await first
        late = await http.post("/v1/score", json=BODY, headers=KEY)
    assert (early.status_code, early.headers["retry-after"]) == (409, "1")
    assert late.content == answer.content
    assert recipe.tries == 1


class Recovering(Recipe):
    """A recipe whose first try finds its scorer lost."""

    lost = True

    async def score(self, item, plug_in_seconds=None):
        if self.lost:
            self.lost = False
            raise ScorerUnavailable("judge: away")
        return await super().score(item)


async def test_an_answer_without_a_scorer_is_not_kept_since_another_try_may_do_better(tmp_path):
    async with (
        await open_store(kept_in(tmp_path).store) as store,
        client_of(build_app(RewardService(Recovering(RewardConfig())), KEYS, store=store)) as http,
    ):
        lost, found = [(await http.post("/v1/score", json=BODY, headers=KEY)).json()["results"][0] for _ in range(2)]
    assert (lost["error"]["kind"], found["status"]) == ("infrastructure", "ok")


async def test_a_repetition_is_not_charged_again(tmp_path):
    from tool_sandbox.http.keys import ApiKeys, digest

    keys = ApiKeys.parse(f"anna:{digest('hush')}:score:1 trajectories/min")
    async with (
        await open_store(kept_in(tmp_path).store) as store,
        client_of(build_app(RewardService(Recipe(RewardConfig())), keys, store=store)) as http,
    ):
        statuses = [(await http.post("/v1/score", json=BODY, headers=KEY)).status_code for _ in range(3)]
        statuses.append((await http.post("/v1/score", json=BODY)).status_code)
    assert statuses == [200, 200, 200, 429]


async def test_a_service_that_keeps_nothing_answers_both(tmp_path):
    app = build_app(RewardService(Recipe(RewardConfig())), KEYS)
    async with client_of(app) as http:
        answers = [await http.post("/v1/score", json=BODY, headers=KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
