from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.environment import process_defaults
from reward_service.config import KEYS_FILE_VARIABLE, RewardConfig

DEPLOY = Path(__file__).parents[2] / "deploy"


def standalone() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "serve" / "rewards.yaml").read_text())


def on_kubernetes() -> dict[str, Any]:
    service = yaml.safe_load((DEPLOY / "kuberay" / "rayservice.yaml").read_text())
    return yaml.safe_load(service["spec"]["serveConfigV2"])


CONFIGS = [pytest.param(standalone(), id="standalone"), pytest.param(on_kubernetes(), id="kubernetes")]


@pytest.mark.parametrize("config", CONFIGS)
def test_serve_accepts_the_configuration_and_knows_every_key(config: dict[str, Any]) -> None:
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    # Serve ignores keys that it does not know, so a misspelt one would pass.
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    for application in config["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_import_path_leads_to_a_callable_that_takes_these_arguments(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    RewardConfig.model_validate(application["args"])


@pytest.mark.parametrize("config", CONFIGS)
def test_a_deployment_override_names_a_deployment_of_the_application(config: dict[str, Any]) -> None:
    from reward_service.judge_deployment import JudgeReplica
    from reward_service.learned.deployment import StepModelReplica
    from reward_service.serve_app import RewardReplica

    (application,) = config["applications"]
    known = {RewardReplica.name, JudgeReplica.name, StepModelReplica.name}
    assert {deployment["name"] for deployment in application.get("deployments", [])} <= known


@pytest.mark.parametrize("config", CONFIGS)
def test_the_service_follows_the_load(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    scaled = RewardConfig.model_validate(application["args"])
    assert scaled.autoscaling is not None
    assert scaled.autoscaling.max_replicas > scaled.replicas


def test_everything_that_starts_ray_names_the_documents_for_refusals_of_its_proxies() -> None:
    name = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    setting = f"{name}={process_defaults()[name]}"
    assert setting in (DEPLOY / "container" / "Dockerfile").read_text()
    assert setting in (DEPLOY / "serve" / "rewards.yaml").read_text()


@pytest.mark.parametrize("config", CONFIGS)
def test_the_service_reads_its_keys_from_a_file(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    assert application["runtime_env"]["env_vars"] == {KEYS_FILE_VARIABLE: "/etc/steptool/reward-keys"}


def test_both_ways_to_deploy_score_alike() -> None:
    (one,), (other,) = standalone()["applications"], on_kubernetes()["applications"]
    args = [{**application["args"], "store": None} for application in (one, other)]
    assert args[0] == args[1]
    assert one["route_prefix"] == other["route_prefix"]


def test_replicas_of_one_machine_share_a_file_and_those_of_many_a_database() -> None:
    kinds = [config["applications"][0]["args"]["store"]["kind"] for config in (standalone(), on_kubernetes())]
    assert kinds == ["sqlite", "postgresql"]


def test_the_standalone_service_listens_on_loopback_only() -> None:
    assert standalone()["http_options"]["host"] == "127.0.0.1"
