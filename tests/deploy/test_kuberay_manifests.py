from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

KUBERAY = Path(__file__).parents[2] / "deploy" / "kuberay"
SCHEMA = json.loads((Path(__file__).parent / "kuberay-v1.7.0.schema.json").read_text())
CLUSTER_FIELD = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
MANIFESTS = ["rayjob.yaml", "rayservice.yaml"]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((KUBERAY / name).read_text())


def violations(document: dict[str, Any]) -> list[str]:
    validator = Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{document['kind']}"})
    return [error.message for error in validator.iter_errors(document)]


def groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = document["spec"][CLUSTER_FIELD[document["kind"]]]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_uses_only_fields_of_the_custom_resource(name: str) -> None:
    assert violations(manifest(name)) == []


def test_the_schema_refuses_a_misspelt_field_and_a_number_where_ray_wants_text() -> None:
    document = manifest("rayjob.yaml")
    document["spec"]["activeDeadlineSecond"] = 60
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    found = "\n".join(violations(document))
    assert "'activeDeadlineSecond' was unexpected" in found
    assert "0 is not of type 'string'" in found


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_mounted_volume_exists_in_its_pod(name: str) -> None:
    for group in groups(manifest(name)):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert mounted == volumes


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_cluster_runs_the_locked_ray_behind_a_token(name: str) -> None:
    document = manifest(name)
    cluster = document["spec"][CLUSTER_FIELD[document["kind"]]]
    lock = (Path(__file__).parents[2] / "requirements" / "cpu.lock").read_text()
    assert f"\nray=={cluster['rayVersion']} " in lock
    assert cluster["authOptions"]["mode"] == "token"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_metrics_port_lies_outside_the_range_of_ray_workers(name: str) -> None:
    ports = [
        port["containerPort"]
        for group in groups(manifest(name))
        for container in group["template"]["spec"]["containers"]
        for port in container["ports"]
        if port["name"] == "metrics"
    ]
    assert len(ports) == len(groups(manifest(name)))
    assert not any(10002 <= port <= 19999 for port in ports)


def test_a_stopped_job_gets_time_for_a_checkpoint_and_its_retry_resumes() -> None:
    spec = manifest("rayjob.yaml")["spec"]
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert spec["backoffLimit"] >= 1
    assert "--resume auto" in spec["entrypoint"]
    assert "--run-dir /runs/" in spec["entrypoint"]


def test_the_training_entrypoint_names_a_preset_that_exists() -> None:
    words = manifest("rayjob.yaml")["spec"]["entrypoint"].split()
    preset = words[words.index("--preset") + 1]
    assert (KUBERAY.parent / "presets" / f"{preset}.yaml").is_file()
