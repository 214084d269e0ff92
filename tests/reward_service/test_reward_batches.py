"""Batches over HTTP: accepted, scored beside the requests, read in order, cancelled, and taken up after a restart."""

from __future__ import annotations

import asyncio
import math
import sys

import httpx
import pytest

from reward_service.api import build_app
from reward_service.assembly import assembled
from reward_service.batch_wire import MAX_BATCH_TRAJECTORIES, MAX_OPEN_BATCHES, BatchRequest, BatchResults
from reward_service.batch_work import MAX_ATTEMPTS, accept, working
from reward_service.config import OutcomeShaping, RewardConfig
from reward_service.errors import ScorerUnavailable
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.stats import Stats
from reward_service.store.batch_queries import Chunk
from reward_service.store.config import SqliteStore
from reward_service.store.opening import open_store
from reward_service.store.timing import Timing
from tests.reward_service.builders import call_step, trajectory, version_of
from tests.reward_service.kept import KEYS, client_of, finished, kept_in, replica
from tests.reward_service.problems import assert_problem
from tool_sandbox.http.keys import ApiKeys, digest

NOWHERE = [call_step(0) | {"progress": None}, {"index": 1, "answer": "42"}]


def batch(count: int, **changes) -> dict:
    return {"trajectories": [trajectory(f"t-{i}") for i in range(count)], **changes}


async def test_a_batch_is_accepted_at_once_and_read_in_order_when_it_is_done(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        body = batch(35)
        body["trajectories"][20] = trajectory("nowhere", steps=NOWHERE)
        accepted = await http.post("/v1/score/batches", json=body)
        assert accepted.status_code == 202
        status = accepted.json()
        # 16 + 16 + 3.
        assert (status["chunks"], status["expires_at"] - status["created_at"]) == (3, pytest.approx(24 * 3600))
        assert accepted.headers["location"] == f"/v1/score/batches/{status['id']}"
        assert (await finished(http, status["id"]))["finished_chunks"] == 3
        answer = (await http.get(f"/v1/score/batches/{status['id']}/results")).json()
        single = (await http.post("/v1/score", json=body)).json()
    assert answer["status"] == "done"
    assert answer["reward_version"] == single["reward_version"]
    assert answer["results"] == single["results"]
    assert answer["results"][20]["error"]["kind"] == "data"


async def test_a_running_batch_says_when_to_ask_again_and_what_is_finished_of_it(tmp_path):
    service = RewardService(Recipe(RewardConfig()))
    store_config = SqliteStore(path=tmp_path / "rewards.db")
    # No worker runs beside this application.
    async with await open_store(store_config) as store, client_of(build_app(service, KEYS, store=store)) as http:
        found = (await http.post("/v1/score/batches", json=batch(2))).json()
        response = await http.get(f"/v1/score/batches/{found['id']}")
        assert response.headers["retry-after"] == "1"
        assert (response.json()["status"], response.json()["finished_chunks"]) == ("running", 0)
        results = (await http.get(f"/v1/score/batches/{found['id']}/results")).json()
        assert (results["status"], results["reward_version"], results["results"]) == ("running", None, [])


async def test_a_batch_goes_on_after_a_restart_of_the_service(tmp_path):
    config = kept_in(tmp_path)
    service = RewardService(Recipe(config))
    async with await open_store(config.store) as store, client_of(build_app(service, KEYS, store=store)) as http:
        found = (await http.post("/v1/score/batches", json=batch(40))).json()
    async with replica(config) as http:
        assert (await finished(http, found["id"]))["status"] == "done"
        results = (await http.get(f"/v1/score/batches/{found['id']}/results")).json()["results"]
    assert [result["id"] for result in results] == [f"t-{i}" for i in range(40)]
    # One useful call: 0.6 − 0.1; then the right answer: 1.
    assert {(result["total"], result["solved"]) for result in results} == {(1.5, 1.0)}


async def test_what_is_open_of_a_cancelled_batch_is_never_scored(tmp_path):
    config = kept_in(tmp_path)
    service = RewardService(Recipe(config))
    async with await open_store(config.store) as store, client_of(build_app(service, KEYS, store=store)) as http:
        found = (await http.post("/v1/score/batches", json=batch(3))).json()
        cancelled = await http.post(f"/v1/score/batches/{found['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    async with replica(config) as http:
        other = (await http.post("/v1/score/batches", json=batch(1))).json()
        await finished(http, other["id"])
        assert (await http.get(f"/v1/score/batches/{found['id']}/results")).json()["results"] == []


async def test_a_batch_is_known_to_the_key_that_sent_it_alone(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        found = (await http.post("/v1/score/batches", json=batch(1))).json()
        for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel")):
            url = f"/v1/score/batches/{found['id']}{path}"
            response = await http.request(method, url, auth=("bert", "quiet"))
            assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
            assert found["id"] in response.json()["detail"]


async def test_a_batch_for_another_version_is_refused_at_once(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        response = await http.post("/v1/score/batches", json=batch(1, reward_version="another"))
        assert (response.status_code, response.json()["expected"]) == (409, "another")


async def test_a_service_of_another_version_on_the_same_store_leaves_a_batch_to_those_that_have_it(tmp_path):
    config, other = kept_in(tmp_path), kept_in(tmp_path, shaping={"kind": "outcome_only"})
    service = RewardService(Recipe(config))
    async with await open_store(config.store) as store, client_of(build_app(service, KEYS, store=store)) as http:
        found = (await http.post("/v1/score/batches", json=batch(20))).json()
    async with replica(other) as http:
        own = (await http.post("/v1/score/batches", json=batch(20))).json()
        await finished(http, own["id"])
        left = (await http.get(f"/v1/score/batches/{found['id']}")).json()
        assert (left["status"], left["finished_chunks"]) == ("running", 0)
    async with replica(config) as http:
        await finished(http, found["id"])
        answer = (await http.get(f"/v1/score/batches/{found['id']}/results")).json()
    assert answer["reward_version"] == service.reward_version
    assert [result["status"] for result in answer["results"]] == ["ok"] * 20


async def test_a_batch_whose_version_no_service_has_any_more_is_answered_with_errors_and_never_by_another(tmp_path):
    config = kept_in(tmp_path)
    async with await open_store(config.store, timing=Timing(attended_seconds=0.0)) as store:
        assert store.batches is not None
        request = BatchRequest.model_validate(batch(1))
        batch_id = await accept(store.batches, RewardService(Recipe(config)), "anna", request)
    service, stats = RewardService(Recipe(RewardConfig(shaping=OutcomeShaping()))), Stats()
    async with (
        await open_store(config.store) as store,
        working(store.batches, service, stats, watch_seconds=0.01),
        client_of(build_app(service, KEYS, store=store)) as http,
    ):
        await finished(http, batch_id)
        answer = (await http.get(f"/v1/score/batches/{batch_id}/results")).json()
    assert answer["reward_version"] == Recipe(config).version != version_of(OutcomeShaping())
    assert answer["results"][0]["error"]["kind"] == "infrastructure"
    assert "another version since the batch was accepted" in answer["results"][0]["error"]["message"]


class Exchanged(RewardService):
    """Gets another recipe between the claim of its first chunk and its scores, and the first recipe back after that."""

    def __init__(self, config: RewardConfig, between: RewardConfig) -> None:
        super().__init__(Recipe(config))
        self._first: Recipe | None = Recipe(config)
        self._between = Recipe(between)

    async def score(self, request, longest_seconds=math.inf):
        first, self._first = self._first, None
        if first is None:
            return await super().score(request, longest_seconds)
        self.use(self._between)
        try:
            return await super().score(request, longest_seconds)
        finally:
            self.use(first)


async def test_a_chunk_that_was_claimed_when_another_recipe_came_is_given_back(tmp_path):
    service = Exchanged(RewardConfig(), RewardConfig(shaping=OutcomeShaping()))
    async with (
        await open_store(SqliteStore(path=tmp_path / "rewards.db")) as store,
        working(store.batches, service, Stats()),
        client_of(build_app(service, KEYS, store=store)) as http,
    ):
        found = (await http.post("/v1/score/batches", json=batch(1))).json()
        await finished(http, found["id"])
        answer = (await http.get(f"/v1/score/batches/{found['id']}/results")).json()
    assert (answer["reward_version"], answer["results"][0]["status"]) == (service.reward_version, "ok")


async def test_a_service_that_serves_nobody_works_on_no_batch(tmp_path):
    config = kept_in(tmp_path)
    service = RewardService(Recipe(config))
    async with await open_store(config.store) as store:
        assert store.batches is not None
        await accept(store.batches, service, "anna", BatchRequest.model_validate(batch(1)))

    async def score(chunk: Chunk) -> bytes:
        return b"{}"

    # As `steptool score` and `rescore` have one.
    async with assembled(config) as assembly:
        assert assembly.store.batches is not None
        # Workers would have come first to the one thread that writes.
        await assembly.store.check()
        assert await assembly.store.batches.work(service.reward_version, score, 60.0)


class Slow(Recipe):
    """Takes its time for every trajectory."""

    async def score(self, item, plug_in_seconds=None):
        await asyncio.sleep(0.2)
        return await super().score(item)


async def test_a_batch_waits_for_a_scorer_that_is_slow_and_well(tmp_path):
    service = RewardService(Slow(RewardConfig()), score_seconds=0.1)
    async with (
        await open_store(SqliteStore(path=tmp_path / "rewards.db")) as store,
        working(store.batches, service, Stats(), rests=(0.0, 0.0)),
        client_of(build_app(service, KEYS, store=store)) as http,
    ):
        found = (await http.post("/v1/score/batches", json=batch(2))).json()
        await finished(http, found["id"])
        answer = (await http.get(f"/v1/score/batches/{found['id']}/results")).json()
        # A request to score has the service's own deadline.
        single = (await http.post("/v1/score", json=batch(2))).json()
    assert [result["status"] for result in answer["results"]] == ["ok", "ok"]
    assert [result["error"]["kind"] for result in single["results"]] == ["infrastructure", "infrastructure"]


async def test_results_are_sent_chunk_by_chunk_in_the_form_of_the_contract(tmp_path):
    async with replica(kept_in(tmp_path)) as http:
        body = batch(35, options={"explain": True})
        body["trajectories"][20] = trajectory("nowhere", steps=NOWHERE)
        found = (await http.post("/v1/score/batches", json=body)).json()
        await finished(http, found["id"])
        answer = await http.get(f"/v1/score/batches/{found['id']}/results")
    assert answer.headers["content-type"] == "application/json"
    # Nobody knew how long it would be when it began.
    assert "content-length" not in answer.headers
    read = BatchResults.model_validate_json(answer.content)
    assert len(read.results) == 35
    assert answer.content == read.model_dump_json().encode()


async def test_a_chunk_that_ends_its_worker_each_time_is_answered_with_errors_in_the_end(tmp_path):
    config = kept_in(tmp_path)
    service = RewardService(Recipe(config))
    async with await open_store(config.store, timing=Timing(lease_seconds=0.0)) as store:
        assert store.batches is not None
        batch_id = await accept(store.batches, service, "anna", BatchRequest.model_validate(batch(1)))
        for _ in range(MAX_ATTEMPTS):
            await _die_at_work(config, service.reward_version)
        async with working(store.batches, service, Stats()), client_of(build_app(service, KEYS, store=store)) as http:
            await finished(http, batch_id)
            answer = (await http.get(f"/v1/score/batches/{batch_id}/results")).json()
    assert "given up after 3 tries" in answer["results"][0]["error"]["message"]


class Recovering(Recipe):
    """Loses every trajectory, but the one called `fine`, as often as it is told."""

    def __init__(self, losses: int) -> None:
        super().__init__(RewardConfig())
        self.losses = losses

    async def score(self, item, plug_in_seconds=None):
        if self.losses > 0 and item.id != "fine":
            self.losses -= 1
            raise ScorerUnavailable("judge: no reply within 30 s")
        return await super().score(item)


@pytest.mark.parametrize(("losses", "statuses"), [(2, ["ok", "ok"]), (3, ["ok", "error"])])
async def test_an_outage_is_waited_for_and_stands_in_the_results_only_when_the_last_try_meets_it_too(
    tmp_path, losses, statuses
):
    service = RewardService(Recovering(losses))
    body = {"trajectories": [trajectory("fine"), trajectory("lost")]}
    async with await open_store(SqliteStore(path=tmp_path / "rewards.db")) as store:
        stats = Stats()
        app = build_app(service, KEYS, store=store)
        async with working(store.batches, service, stats, rests=(0.0, 0.0)), client_of(app) as http:
            found = (await http.post("/v1/score/batches", json=body)).json()
            await finished(http, found["id"])
            results = (await http.get(f"/v1/score/batches/{found['id']}/results")).json()["results"]
    # Three tries, each of which meets one loss.
    assert [result["status"] for result in results] == statuses
    # What was tried in vain is not counted as answered.
    assert sum(stats.snapshot().total.trajectories.values()) == 2


async def test_a_key_with_too_many_open_batches_is_told_to_come_back_and_not_charged_for_trajectories(tmp_path):
    charged = f"anna:{digest('hush')}:batches:{MAX_OPEN_BATCHES + 1} trajectories/min"
    keys = ApiKeys.parse(f"{charged},bert:{digest('quiet')}")
    service = RewardService(Recipe(RewardConfig()))
    # No worker runs beside this application, so every batch stays open.
    async with (
        await open_store(SqliteStore(path=tmp_path / "rewards.db")) as store,
        client_of(build_app(service, keys, store=store)) as http,
    ):
        for _ in range(MAX_OPEN_BATCHES):
            accepted = await http.post("/v1/score/batches", json=batch(1))
            assert accepted.status_code == 202, accepted.text
        refused = await http.post("/v1/score/batches", json=batch(1))
        assert_problem(refused, 429)
        assert refused.headers["retry-after"] == "5"
        assert (await http.post("/v1/score/batches", json=batch(1), auth=("bert", "quiet"))).status_code == 202
        cancelled = await http.post(f"/v1/score/batches/{accepted.json()['id']}/cancel")
        assert cancelled.status_code == 200
        assert (await http.post("/v1/score/batches", json=batch(1))).status_code == 202


DYING = """
import asyncio, os, sys
from reward_service.config import RewardConfig
from reward_service.store.opening import open_store
from reward_service.store.timing import Timing

async def main():
    store = await open_store(RewardConfig.model_validate_json(sys.argv[1]).store, timing=Timing(lease_seconds=0.01))
    async def die(chunk):
        os._exit(9)
    await store.batches.work(sys.argv[2], die, 60.0)

asyncio.run(main())
"""


async def _die_at_work(config: RewardConfig, version: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, config.model_dump_json(), version)
    assert await asyncio.wait_for(process.wait(), 60) == 9


async def test_two_replicas_share_the_chunks_and_score_each_of_them_once(tmp_path):
    config = kept_in(tmp_path)
    async with replica(config) as one, replica(config) as other:
        found = (await one.post("/v1/score/batches", json=batch(160))).json()
        await finished(other, found["id"])
        scored = [sum((await http.get("/v1/stats")).json()["total"]["trajectories"].values()) for http in (one, other)]
    assert sum(scored) == 160


async def test_a_service_that_keeps_nothing_says_what_to_configure():
    app = build_app(RewardService(Recipe(RewardConfig())), ApiKeys.nobody_asked())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rewards") as http:
        response = await http.post("/v1/score/batches", json=batch(1))
        assert response.status_code == 501
        assert "configure `store: {kind: sqlite" in response.json()["detail"]


@pytest.mark.parametrize("count", [0, MAX_BATCH_TRAJECTORIES + 1])
async def test_a_batch_beyond_its_limits_is_refused_with_the_place(tmp_path, count):
    async with replica(kept_in(tmp_path)) as http:
        body = {"trajectories": [trajectory(f"t-{i}", steps=[], stop="step_budget") for i in range(count)]}
        response = await http.post("/v1/score/batches", json=body)
        assert response.status_code == 422
        assert response.json()["errors"][0]["pointer"] == "/trajectories"
