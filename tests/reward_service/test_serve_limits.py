"""The service on Ray Serve at its limits: a full queue, an end under load, fewer replicas, and with a step model."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray import serve
from ray.serve.config import AutoscalingConfig

from reward_service.assembly import assembled
from reward_service.config import RewardConfig
from reward_service.errors import StepModelUnusable
from reward_service.serve_app import (
    RewardEndpoint,
    RewardReplica,
    build,
    choose_address,
    longest_scoring,
    start_rewards,
    stop_rewards,
)
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import trajectory
from tests.reward_service.held import HeldSignal
from tests.reward_service.problems import assert_problem
from tests.reward_service.step_models import save_classifier
from tool_sandbox.http.keys import ApiKeys, digest

DEADLINE = 60.0


class Held:
    """The service with a signal that is held until it is released, so that a test decides how long requests last."""

    def __init__(self, place: Path) -> None:
        self._signal = HeldSignal(place)
        self.config = RewardConfig.model_validate({"signals": {"contribution": self._signal.settings}})
        self.application = "held"
        self.url = choose_address(self.application).url

    def deploy(self, *, wait: bool = True, **options: Any) -> None:
        path = os.pathsep.join([str(self._signal.place), *filter(None, [os.environ.get("PYTHONPATH")])])
        actor = {"num_cpus": 0.1, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        bound = RewardReplica.options(ray_actor_options=actor, **options).bind(
            self.config.model_dump(mode="json"), ApiKeys({})
        )
        serve.run_many(
            [serve.RunTarget(bound, self.application, f"/{self.application}")], wait_for_applications_running=wait
        )

    @property
    def endpoint(self) -> RewardEndpoint:
        return RewardEndpoint(self.url, self.application, "", started_serve=False)

    async def in_flight(self, http: httpx.AsyncClient, count: int) -> list[asyncio.Task[httpx.Response]]:
        """Requests that all are at work in a replica."""
        asked = [asyncio.ensure_future(http.post("/v1/score", json=body(i))) for i in range(count)]
        await until(lambda: self._signal.arrived() >= count or any(one.done() for one in asked))
        assert [one.result().text for one in asked if one.done()] == []
        return asked

    def release(self) -> None:
        self._signal.release()

    def states(self) -> Mapping[Any, int]:
        return dict(serve.status().applications[self.application].deployments["rewards"].replica_states)


def body(number: int) -> dict[str, Any]:
    return {"trajectories": [trajectory(f"t-{number}")]}


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def held(served, tmp_path) -> Iterator[Held]:
    found = Held(tmp_path)
    yield found
    found.release()
    serve.delete(found.application)


def assert_answered(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    # Contribution less the price of a step; solved.
    assert [step["reward"] for step in result["steps"]] == pytest.approx([0.5, 1.0])


async def test_a_full_queue_is_answered_with_a_problem_and_a_time_and_loses_nothing(held):
    held.deploy(max_ongoing_requests=1, max_queued_requests=1)
    async with httpx.AsyncClient(base_url=held.url, timeout=DEADLINE) as http:
        asked = await held.in_flight(http, 1)
        more = [asyncio.ensure_future(http.post("/v1/score", json=body(i))) for i in range(1, 7)]
        # Of six, one finds room; the others are turned away while nobody has been answered yet.
        await until(lambda: sum(one.done() for one in more) >= 5)
        turned_away = [one.result() for one in more if one.done()]
        held.release()
        answers = [await one for one in (*asked, *more)]
    for response in turned_away:
        assert_problem(response, 429)
        assert response.headers["retry-after"] == "1"
    good = [one for one in answers if one.status_code != 429]
    assert len(good) == 2
    for response in good:
        assert_answered(response)


async def test_requests_in_flight_are_answered_when_the_service_is_stopped(held):
    held.deploy(num_replicas=2)
    async with httpx.AsyncClient(base_url=held.url, timeout=DEADLINE) as http:
        asked = await held.in_flight(http, 8)
        stopped = asyncio.ensure_future(asyncio.to_thread(stop_rewards, held.endpoint))
        await until(lambda: serve.status().applications[held.application].status == "DELETING")
        await asyncio.sleep(1.0)
        assert not stopped.done()
        assert not any(one.done() for one in asked)
        held.release()
        for one in asked:
            assert_answered(await one)
        await stopped
        assert_problem(await http.get("/readyz"), 404)


async def test_requests_in_flight_are_answered_when_there_are_fewer_replicas(held):
    held.deploy(num_replicas=2)
    async with httpx.AsyncClient(base_url=held.url, timeout=DEADLINE) as http:
        asked = await held.in_flight(http, 16)
        await asyncio.to_thread(lambda: held.deploy(wait=False, num_replicas=1))
        await until(lambda: held.states().get("STOPPING") == 1)
        assert not any(one.done() for one in asked)
        held.release()
        for one in asked:
            assert_answered(await one)
        await until(lambda: held.states() == {"RUNNING": 1})


def test_deadlines_end_before_serve_gives_their_request_up():
    assert longest_scoring(60.0) == pytest.approx(50.0) == RewardConfig().score_seconds
    assert longest_scoring(None) == math.inf


def test_a_path_without_an_application_is_a_problem_too(served):
    elsewhere = served.url.rpartition("/")[0] + "/nobody"
    assert_problem(httpx.get(elsewhere), 404)
    named = httpx.get(elsewhere, headers={"X-Request-Id": "mine"})
    assert named.headers["x-request-id"] == "mine"


def test_the_step_model_has_a_deployment_of_its_own_and_both_follow_the_load(monkeypatch):
    monkeypatch.setenv("STEPTOOL_REWARD_KEYS", f"anna:{digest('secret')}")
    application = build(
        {
            "signals": {"contribution": {"kind": "learned"}},
            "replicas": 2,
            "autoscaling": {"max_replicas": 5, "target_ongoing_requests": 4},
            "step_model": {"model": "/m", "replicas": 1, "autoscaling": {"max_replicas": 3}, "gpus_per_replica": 0.5},
        }
    )
    ingress: Any = application._bound_deployment
    model = ingress.init_args[2]._bound_deployment
    assert (ingress.name, model.name) == ("rewards", "step_model")
    assert _scaling(ingress) == (2, 5, 4.0)
    assert _scaling(model) == (1, 3, 16.0)
    assert model.ray_actor_options["num_gpus"] == 0.5
    assert ingress.ray_actor_options["num_gpus"] == 0
    fixed = build({"replicas": 3})._bound_deployment
    assert (fixed.num_replicas, fixed._deployment_config.autoscaling_config) == (3, None)


def _scaling(deployment: serve.Deployment) -> tuple[int | None, int | None, float | None]:
    found = deployment._deployment_config.autoscaling_config
    assert isinstance(found, AutoscalingConfig)
    return found.min_replicas, found.max_replicas, found.target_ongoing_requests


@pytest.mark.usefixtures("served")
async def test_a_step_model_behind_serve_scores_as_one_in_this_process_does(tmp_path):
    settings = {
        "signals": {"contribution": {"kind": "learned", "label": 1}},
        "cpus_per_replica": 0.1,
        "step_model": {
            "model": str(save_classifier(tmp_path / "model")), "text_tokens": 256, "cpus_per_replica": 0.1
        },
    }  # fmt: skip
    config = RewardConfig.model_validate(settings)
    # Each call has a result of its own, so the model reads another text of each.
    called = trajectory()["steps"]
    bodies = {
        "trajectories": [
            trajectory(f"t-{i}", steps=[called[0] | {"observation": f"42 of {i}"}, called[1]]) for i in range(20)
        ]
    }
    endpoint = await asyncio.to_thread(start_rewards, config, ApiKeys.nobody_asked(), application="learned")
    try:
        async with httpx.AsyncClient(base_url=endpoint.url, timeout=DEADLINE) as http:
            remote = (await http.post("/v1/score", json=bodies)).json()
    finally:
        await asyncio.to_thread(stop_rewards, endpoint)
    async with assembled(config) as assembly:
        local = await assembly.service.score(ScoreRequest.model_validate(bodies))
    assert remote["reward_version"] == local.reward_version == endpoint.reward_version
    rewards = [step["reward"] for result in remote["results"] for step in result["steps"]]
    assert rewards == pytest.approx([step.reward for result in local.results for step in result.steps], abs=1e-5)
    assert len({round(reward, 6) for reward in rewards[::2]}) > 1


@pytest.mark.usefixtures("served")
def test_a_service_does_not_start_without_its_step_model(tmp_path):
    config = RewardConfig.model_validate(
        {"signals": {"solved": {"kind": "learned"}}, "step_model": {"model": str(tmp_path / "gone")}}
    )
    with pytest.raises(StepModelUnusable, match="gone': no such directory"):
        start_rewards(config, ApiKeys.nobody_asked(), application="gone")
