"""The API's description: the file is current, and whatever it allows is answered as it says."""

from __future__ import annotations

import re
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck
from schemathesis.config import SchemathesisConfig

from reward_service import openapi
from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tests.reward_service.kept import kept_in, running
from tool_sandbox.http.keys import ApiKeys

APP = build_app(RewardService(Recipe(RewardConfig())), ApiKeys.nobody_asked())
FILE = Path(__file__).parents[2] / "docs" / "api" / "rewards.json"
# On a busy machine inputs are slow to make; where few fit a schema, many are thrown away. Neither is a failure.
SLOW_OR_SPARSE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
RULES = SchemathesisConfig.from_path(Path(__file__).with_name("schemathesis.toml"))

SCHEMA = schemathesis.openapi.from_dict(APP.openapi(), config=RULES)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Of a running service that keeps a store."""
    with running(kept_in(tmp_path_factory.mktemp("described"))) as address:
        yield address


def test_the_file_in_the_documents_is_current():
    assert FILE.read_text(encoding="utf-8") == openapi.text(APP), "run `make openapi`"


def test_every_route_but_those_of_the_page_is_described():
    served = {route.path for route in APP.routes if isinstance(route, APIRoute) and route.include_in_schema}
    assert served == set(APP.openapi()["paths"])


def test_every_route_wants_a_key_but_the_probes():
    open_paths = {
        path
        for path, operations in APP.openapi()["paths"].items()
        if any("security" not in one for one in operations.values())
    }
    assert open_paths == {"/healthz", "/readyz", "/metrics"}


def test_names_of_operations_are_stable_and_tell_their_route():
    names = [one["operationId"] for operations in APP.openapi()["paths"].values() for one in operations.values()]
    assert len(set(names)) == len(names)
    assert "post_v1_score" in names
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


@SCHEMA.parametrize()
@hypothesis.settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=SLOW_OR_SPARSE)
def test_whatever_the_description_allows_is_answered_as_it_says(case, url):
    case.call_and_validate(base_url=url, headers={"Authorization": "Bearer hush"})


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batches", "/compat/openrlhf/get_reward", "/verify"])
def test_errors_of_every_kind_are_described_as_problem_documents(path):
    responses = APP.openapi()["paths"][path]["post"]["responses"]
    assert {"400", "401", "403", "409", "413", "415", "422", "429", "500", "503"} <= set(responses)
    for status, response in responses.items():
        if int(status) >= 400:
            assert list(response["content"]) == ["application/problem+json"]
