"""`deploy/serve/rewards.yaml`: what it deploys scores, by the recipe that its own `user_config` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray import serve

from reward_service.config import KEYS_FILE_VARIABLE, LinearShaping, RewardConfig
from reward_service.serve_app import build, choose_address
from tests.reward_service.builders import call_step, trajectory, version_of
from tool_sandbox.http.keys import digest

FILE = Path(__file__).parents[2] / "deploy" / "serve" / "rewards.yaml"


def with_user_config(application: serve.Application, overrides: list[dict[str, Any]]) -> serve.Application:
    """What `serve deploy` makes of the section `deployments`."""
    ingress: Any = application._bound_deployment
    (override,) = [one for one in overrides if one["name"] == ingress.name]
    return ingress.options(user_config=override["user_config"]).bind(*ingress.init_args)


@pytest.mark.usefixtures("served")
def test_the_deploy_file_serves_what_it_says(tmp_path, monkeypatch):
    (described,) = yaml.safe_load(FILE.read_text())["applications"]
    assert described["import_path"] == f"{build.__module__}:{build.__name__}"
    assert set(described["runtime_env"]["env_vars"]) == {KEYS_FILE_VARIABLE}
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{digest('hush')}\n")
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(keys))
    described["args"]["store"]["path"] = str(tmp_path / "rewards.db")
    # Less than the whole core that the tests' Ray may have left.
    described["args"]["cpus_per_replica"] = 0.1
    application = with_user_config(build(described["args"]), described["deployments"])
    url = choose_address("deploy-file").url
    serve.run(application, name="deploy-file", route_prefix="/deploy-file")
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert http.post("/v1/score", json={"trajectories": [trajectory()]}).status_code == 401
            steps = [call_step(0, before=2, after=1), {"index": 1, "answer": "41"}]
            body = {"trajectories": [trajectory(steps=steps)]}
            answer = http.post("/v1/score", json=body, auth=("anna", "hush")).json()
    finally:
        serve.delete("deploy-file")
    (result,) = answer["results"]
    # A call that brought the task one nearer: 0.6 - 0.1; a wrong answer: 0.
    assert [step["reward"] for step in result["steps"]] == pytest.approx([0.5, 0.0])
    named = described["deployments"][0]["user_config"]["shaping"]
    assert answer["reward_version"] == version_of(LinearShaping.model_validate(named))
    assert RewardConfig.model_validate(described["args"]).store.kind == "sqlite"
