"""Starting and stopping the service on Ray Serve."""

from __future__ import annotations

import time

import httpx
import pytest
from ray import serve
from ray.exceptions import RayActorError

from reward_service import serve_app
from reward_service.config import KEYS_FILE_VARIABLE, KEYS_VARIABLE, OutcomeShaping, PaperShaping, RewardConfig
from reward_service.errors import ServiceNotStarted
from reward_service.serve_app import build, choose_address, start_rewards, stop_rewards
from reward_service.store.config import SqliteStore
from tests.reward_service.builders import trajectory, version_of
from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.keys import ApiKeys, digest

DEADLINE = 60.0


@pytest.mark.usefixtures("ray_local")
def test_a_service_without_keys_is_not_shown_to_the_network():
    with pytest.raises(InvalidKeys, match=r"no API keys, and 0\.0\.0\.0 can be reached from elsewhere"):
        start_rewards(RewardConfig(), ApiKeys.nobody_asked(), host="0.0.0.0")


def test_a_serve_yaml_never_runs_without_keys(monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    with pytest.raises(InvalidKeys, match="found neither"):
        build({})


def test_a_serve_yaml_sets_shaping_and_replicas(monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, f"anna:{digest('secret')}")
    application = build({"shaping": {"kind": "paper"}, "replicas": 3})
    assert isinstance(application, serve.Application)
    assert application._bound_deployment.num_replicas == 3


def test_a_port_that_serve_cannot_have_is_refused(served):
    port = httpx.URL(served.url).port
    with pytest.raises(ServiceNotStarted, match=rf"asked for 127.0.0.1:1, but Serve already listens on .*:{port}"):
        start_rewards(RewardConfig(), ApiKeys.nobody_asked(), port=1, application="elsewhere")


@pytest.mark.usefixtures("served")
def test_a_service_that_others_should_reach_does_not_hide_on_loopback():
    keys, _ = ApiKeys.issue("others")
    with pytest.raises(ServiceNotStarted, match=r"asked for 0\.0\.0\.0:0, but Serve already listens on 127"):
        start_rewards(RewardConfig(), keys, host="0.0.0.0", application="elsewhere")


def test_an_address_can_be_handed_out_before_the_service_is_there(served):
    """The engines load while the service starts, and must know by then where to find it."""
    address = choose_address("second")
    endpoint = start_rewards(RewardConfig(), ApiKeys.nobody_asked(), port=address.port, application="second")
    assert (endpoint.url, address.port) == (address.url, httpx.URL(served.url).port)
    stop_rewards(endpoint)


def test_a_second_service_has_its_own_shaping_and_leaves_the_first_alone(served):
    config = RewardConfig(shaping=OutcomeShaping())
    endpoint = start_rewards(config, ApiKeys.nobody_asked(), application="second")
    assert endpoint.reward_version == version_of(OutcomeShaping())
    assert httpx.get(f"{endpoint.url}/v1/models").json()["data"][0]["id"] == "outcome_only"
    stop_rewards(endpoint)
    assert httpx.get(f"{endpoint.url}/readyz").status_code == 404
    assert httpx.get(f"{served.url}/readyz").status_code == 200


@pytest.mark.usefixtures("served")
def test_a_batch_that_is_sent_to_serve_is_scored_and_read_there(tmp_path):
    config = RewardConfig(store=SqliteStore(path=tmp_path / "rewards.db"))
    endpoint = start_rewards(config, ApiKeys.nobody_asked(), application="second")
    batches = f"{endpoint.url}/v1/score/batches"
    sent = {"trajectories": [trajectory(f"t-{i}") for i in range(40)]}
    try:
        with httpx.Client(timeout=DEADLINE) as http:
            found = http.post(batches, json=sent).json()["id"]
            deadline = time.monotonic() + DEADLINE
            while http.get(f"{batches}/{found}").json()["status"] == "running":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            answer = http.get(f"{batches}/{found}/results").json()
    finally:
        stop_rewards(endpoint)
    assert (answer["status"], answer["reward_version"]) == ("done", endpoint.reward_version)
    # One useful call: 0.6 - 0.1; then the right answer: 1.
    assert [(result["id"], result["total"]) for result in answer["results"]] == [(f"t-{i}", 1.5) for i in range(40)]


def test_a_proxy_that_serve_ends_and_replaces_while_it_starts_is_waited_for(served, monkeypatch):
    real, deaths = serve.start, [RayActorError()]

    def start(**options):
        if deaths:
            raise deaths.pop()
        return real(**options)

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve_app, "_running_serve", lambda: None)
    port = httpx.URL(served.url).port
    assert port is not None
    endpoint = start_rewards(RewardConfig(), ApiKeys.nobody_asked(), port=port, application="second")
    assert httpx.get(f"{endpoint.url}/readyz").status_code == 200
    assert not deaths
    stop_rewards(endpoint)


def test_a_service_that_ray_has_no_room_for_gives_up_at_its_deadline_and_cleans_up(served):
    config = RewardConfig(cpus_per_replica=10_000, start_seconds=1)
    with pytest.raises(ServiceNotStarted, match=r"not ready within 1 s.*needs 1 x 10000 CPUs"):
        start_rewards(config, ApiKeys.nobody_asked(), application="huge")
    # Serve gives a replica time to end even where it never began; the service does not wait for that.
    deadline = time.monotonic() + 20
    while (left := serve.status().applications.get("huge")) is not None and left.status != "DELETING":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_another_user_config_is_another_recipe_under_the_same_address(served):
    address = choose_address("second")
    versions = []
    for shaping in ({"kind": "outcome_only"}, {"kind": "paper"}):
        deployment = serve_app.RewardReplica.options(
            user_config={"shaping": shaping}, ray_actor_options={"num_cpus": 0.1}
        )
        serve.run(
            deployment.bind(RewardConfig().model_dump(mode="json"), ApiKeys({})), name="second", route_prefix="/second"
        )
        versions.append(httpx.get(f"{address.url}/readyz").json()["reward_version"])
    serve.delete("second")
    assert versions == [version_of(OutcomeShaping()), version_of(PaperShaping())]


@pytest.mark.usefixtures("served")
def test_replicas_watch_the_keys_file_and_keep_scopes_and_quotas(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"anna:{digest('hush')}")
    own, secret = ApiKeys.issue("trainer")
    keys = own.joined(ApiKeys.load({KEYS_FILE_VARIABLE: str(file)}, KEYS_VARIABLE))
    endpoint = start_rewards(RewardConfig(), keys, application="watched")
    models = f"{endpoint.url}/v1/models"
    assert httpx.get(models, auth=("anna", "hush")).status_code == 200
    file.write_text(f"bert:{digest('other')}:read:1/min")
    deadline = time.monotonic() + 20
    while httpx.get(models, auth=("anna", "hush")).status_code != 401:
        assert time.monotonic() < deadline
    assert httpx.post(f"{endpoint.url}/v1/score", auth=("bert", "other")).status_code == 403
    assert [httpx.get(models, auth=("bert", "other")).status_code for _ in range(2)] == [200, 429]
    assert httpx.get(models, auth=("trainer", secret)).status_code == 200
    stop_rewards(endpoint)


@pytest.mark.usefixtures("served")
def test_a_replica_does_not_start_with_keys_that_are_gone_by_then(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"anna:{digest('hush')}")
    keys = ApiKeys.load({KEYS_FILE_VARIABLE: str(file)}, KEYS_VARIABLE)
    file.unlink()
    with pytest.raises(ServiceNotStarted, match="DEPLOY_FAILED"):
        start_rewards(RewardConfig(start_seconds=60), keys, application="keyless")
