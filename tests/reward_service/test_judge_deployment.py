"""The judge in a Serve deployment of its own: what becomes of votes when somebody is lost, and of its errors."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import ray
from fastapi import Response
from ray import serve
from ray.serve.config import AutoscalingConfig

from reward_service.config import JudgeSignal, RewardConfig, SignalsConfig
from reward_service.errors import JudgeUnavailable, ScorerUnavailable
from reward_service.judge.config import JudgeConfig
from reward_service.judge_deployment import RemoteJudge, judge_application
from reward_service.serve_app import RewardEndpoint, build, start_rewards, stop_rewards
from reward_service.store.config import NoStore, SqliteStore
from tests.reward_service.builders import call_step, item, trajectory
from tests.reward_service.judges import FakeJudge, Model, Way, config, grades, on_a_socket
from tool_sandbox.http.keys import ApiKeys, digest

DEADLINE = 60.0
SERVICE = "judged-tests"
ALONE = "judge-alone-tests"
VOTES = 3
GOOD = grades(1, 5, "Solved")


@pytest.fixture(scope="module")
def way(served) -> Iterator[Way]:
    with on_a_socket() as found:
        yield found


@pytest.fixture(scope="module")
def service(way, tmp_path_factory) -> Iterator[RewardEndpoint]:
    """The service with one replica and a judge behind it, which keep what they have in one file."""
    signal = JudgeSignal()
    rewards = RewardConfig(
        signals=SignalsConfig(success=signal, contribution=signal, solved=signal),
        judge=config(url=way.url, votes=VOTES),
        store=SqliteStore(path=tmp_path_factory.mktemp("judged") / "votes.db"),
    )
    endpoint = start_rewards(rewards, ApiKeys.nobody_asked(), application=SERVICE)
    yield endpoint
    stop_rewards(endpoint)


@pytest.fixture
async def http(service) -> Any:
    async with httpx.AsyncClient(base_url=service.url, timeout=DEADLINE) as client:
        yield client


def asked_of(way: Way, model: Model = GOOD, answers: float = math.inf) -> FakeJudge:
    way.stage.fake = FakeJudge(model, answers=answers)
    return way.stage.fake


def body(*answers: str, task: str = "t", **options: Any) -> dict[str, Any]:
    """Trajectories that read alike where their `answers` are; the name of the task is read by no judge."""
    truth = {"answer": "42", "minimum_calls": 1}
    told = [
        trajectory(
            f"t-{answer}",
            steps=[call_step(0), {"index": 1, "answer": answer}],
            task={"id": task, "level": "L1", "ground_truth": truth},
        )
        for answer in answers
    ]
    return {"trajectories": told, "options": options}


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def kill(application: str, deployment: str) -> None:
    actors: Any = ray.util.list_named_actors(all_namespaces=True)
    (name,) = [one["name"] for one in actors if f"::{application}#{deployment}#" in one["name"]]
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


async def test_votes_in_flight_outlive_the_replica_that_asked_for_them(http, way):
    fake = asked_of(way, answers=0)
    lost = asyncio.ensure_future(http.post("/v1/score", json=body("1", "2")))
    await until(lambda: fake.arrived == 2 * VOTES)
    await asyncio.to_thread(kill, SERVICE, "rewards")
    # Under another task's name nobody waits for the lease of the score that the killed replica held.
    other = asyncio.ensure_future(http.post("/v1/score", json=body("1", "2", task="other")))
    await asyncio.wait([lost, other], timeout=1.0)
    fake.answers = math.inf
    for response in await asyncio.gather(other, lost):
        assert [one["status"] for one in response.json()["results"]] == ["ok", "ok"]
    assert (fake.arrived, len(fake.asked)) == (2 * VOTES, 2 * VOTES)


async def test_votes_that_came_after_the_deadline_of_their_asker_serve_the_next(http, way):
    fake = asked_of(way, answers=0)
    (late,) = (await http.post("/v1/score", json=body("3", deadline_ms=3000))).json()["results"]
    assert late["error"]["kind"] == "infrastructure"
    assert fake.arrived == VOTES
    fake.answers = math.inf
    await until(lambda: len(fake.asked) == VOTES)
    (result,) = (await http.post("/v1/score", json=body("3"))).json()["results"]
    assert (result["status"], fake.arrived) == ("ok", VOTES)


async def test_an_endpoint_that_refuses_is_told_in_the_judges_own_words(http, way):
    fake = asked_of(way, lambda _: Response(status_code=400))
    (result,) = (await http.post("/v1/score", json=body("4"))).json()["results"]
    assert result["error"]["kind"] == "infrastructure"
    assert result["error"]["message"].startswith(f"judge {way.url}: no judgement (after 1 requests: status 400)")
    assert fake.arrived == VOTES


async def test_a_readiness_probe_goes_through_the_deployment_and_asks_no_judge(http, way):
    fake = asked_of(way)
    assert (await http.get("/readyz")).json()["status"] == "ready"
    assert fake.arrived == 0


@contextmanager
def alone(settings: JudgeConfig, name: str = ALONE) -> Iterator[Any]:
    """A handle to the deployment, without a store."""
    try:
        yield serve.run(judge_application(settings, NoStore(), DEADLINE), name=name, route_prefix=None)
    finally:
        serve.delete(name)


async def test_without_a_store_the_judge_is_asked_each_time_and_its_errors_keep_their_type(way):
    settings = config(url=way.url, cpus_per_replica=0.1)
    with alone(settings) as handle:
        judge = await RemoteJudge.connected(handle, settings, DEADLINE)
        fake = asked_of(way)
        told = [await judge.told(item()) for _ in range(2)]
        assert [one.columns["contribution"] for one in told] == [[1.0, None]] * 2
        await handle.check_health.remote()
        assert fake.arrived == 2
        asked_of(way, lambda _: Response(status_code=400))
        with pytest.raises(JudgeUnavailable, match="status 400") as refused:
            await judge.told(item())
        assert type(refused.value) is JudgeUnavailable
        stranger = RemoteJudge(handle, settings.model_copy(update={"votes": 2}))
        asked_of(way)
        with pytest.raises(ScorerUnavailable, match=r"judge: found \w{12}, expected \w{12}"):
            await stranger.told(item())


async def test_more_than_the_queue_holds_is_infrastructure_and_the_rest_is_answered(way):
    # Eight may wait, for two askers of eight each. Serve refuses as they come in, so that whether the two that go to
    # work have left the queue by then is a matter of time.
    settings = config(url=way.url, requests_in_flight=1)
    with alone(settings) as handle:
        judges = [await RemoteJudge.connected(handle, settings, DEADLINE) for _ in range(2)]
        fake = asked_of(way, answers=0)
        calls = [asyncio.ensure_future(judge.told(item())) for judge in judges for _ in range(8)]
        await until(lambda: any(one.done() for one in calls))
        fake.answers = math.inf
        ends = await asyncio.gather(*calls, return_exceptions=True)
    lost = [one for one in ends if isinstance(one, BaseException)]
    assert {type(one) for one in lost} == {ScorerUnavailable}
    assert "judge: its deployment gave no scores (BackPressureError)" in str(lost[0])
    assert len(ends) - len(lost) >= 8
    assert fake.arrived == len(ends) - len(lost)


async def test_a_killed_judge_is_infrastructure_and_its_successor_is_reached_by_the_same_connection(way):
    settings = config(url=way.url)
    with alone(settings) as handle:
        judge = await RemoteJudge.connected(handle, settings, DEADLINE)
        fake = asked_of(way, answers=0)
        call = asyncio.ensure_future(judge.told(item()))
        await until(lambda: fake.arrived == 1)
        await asyncio.to_thread(kill, ALONE, "judge")
        with pytest.raises(ScorerUnavailable, match="judge: its deployment gave no scores"):
            await call
        fake.answers = math.inf
        async with asyncio.timeout(DEADLINE):
            assert (await judge.told(item())).columns["success"] == [1.0, None]


async def test_what_was_accepted_is_answered_when_the_deployment_is_taken_down(way):
    settings = config(url=way.url)
    with alone(settings) as handle:
        judge = await RemoteJudge.connected(handle, settings, DEADLINE)
        fake = asked_of(way, answers=0)
        calls = [asyncio.ensure_future(judge.told(item())) for _ in range(4)]
        await until(lambda: fake.arrived == 4)
        gone = asyncio.ensure_future(asyncio.to_thread(serve.delete, ALONE))
        await until(lambda: serve.status().applications[ALONE].status == "DELETING")
        assert not any(one.done() for one in calls)
        fake.answers = math.inf
        assert [(await one).columns["success"] for one in calls] == [[1.0, None]] * 4
        await gone


def test_the_judge_has_a_deployment_of_its_own_that_follows_the_load(monkeypatch):
    monkeypatch.setenv("STEPTOOL_REWARD_KEYS", f"anna:{digest('secret')}")
    settings = {"url": "http://models", "model": "m", "replicas": 2, "autoscaling": {"max_replicas": 3}}
    application = build({"signals": {"solved": {"kind": "judge"}}, "judge": settings | {"requests_in_flight": 8}})
    ingress: Any = application._bound_deployment
    judge = ingress.init_args[3]._bound_deployment
    scaling = judge._deployment_config.autoscaling_config
    assert (ingress.name, judge.name, judge.max_ongoing_requests) == ("rewards", "judge", 16)
    assert isinstance(scaling, AutoscalingConfig)
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 3)
