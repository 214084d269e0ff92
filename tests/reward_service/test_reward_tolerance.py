"""One malformed trajectory is an error in its place, and its neighbours are scored."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.tolerance import one_by_one
from reward_service.wire import MAX_STEPS, MAX_TRAJECTORIES, MalformedItem, ScoreRequest
from tests.reward_service.builders import call_step, trajectory
from tests.reward_service.kept import client_of, finished, kept_in, replica
from tool_sandbox.http.keys import ApiKeys

APP = build_app(RewardService(Recipe(RewardConfig())), ApiKeys.nobody_asked())
SPOILT = trajectory("spoilt", steps=[call_step(0) | {"status": "flopped"}, {"index": 1, "answer": "42"}])
STATUS = "/trajectories/1/steps/0/status"


async def score(*items: Any, **options: Any) -> tuple[int, Any]:
    async with client_of(APP) as http:
        response = await http.post("/v1/score", json={"trajectories": list(items), "options": options})
    return response.status_code, response.json()


async def test_a_malformed_trajectory_is_an_error_in_its_place_that_says_where_it_is():
    status, answer = await score(trajectory("a"), SPOILT, trajectory("b"))
    assert status == 200
    first, spoilt, last = answer["results"]
    assert [(one["id"], one["total"]) for one in (first, last)] == [("a", 1.5), ("b", 1.5)]
    error = spoilt["error"]
    assert (spoilt["id"], spoilt["status"], error["kind"], error["pointer"]) == ("spoilt", "error", "data", STATUS)
    assert error["message"].startswith(f"{STATUS}: Input should be 'ok', 'tool_error'")


async def test_a_strict_request_with_a_malformed_trajectory_is_refused_whole():
    status, problem = await score(trajectory("a"), SPOILT, strict=True)
    assert (status, problem["errors"][0]["pointer"]) == (422, STATUS)


@pytest.mark.parametrize(
    ("item", "pointer"),
    [
        (7, ""),
        ({"id": "x"}, "/steps"),
        ({"id": "x", "messages": [{"role": "critic", "content": "?"}]}, "/messages/0/role"),
        ({"id": "x", "messages": []}, "/messages"),
        (trajectory("x", steps=[call_step(0)] * (MAX_STEPS + 1)), "/steps"),
        (trajectory("x", steps=[call_step(1), {"index": 1, "answer": "42"}]), ""),
        (trajectory("x", task={"id": "q", "ground_truth": {"answer": True}}), "/task/ground_truth/answer"),
    ],
    ids=["no object", "no steps", "a role", "no messages", "too long", "out of order", "a flag as the answer"],
)
async def test_whatever_is_wrong_inside_of_a_trajectory_stays_there(item, pointer):
    status, answer = await score(trajectory("a"), item)
    assert (status, answer["results"][0]["total"]) == (200, 1.5)
    assert answer["results"][1]["error"]["pointer"] == f"/trajectories/1{pointer}"


async def test_a_request_of_nothing_else_is_answered_too():
    status, answer = await score(SPOILT | {"id": "a"}, SPOILT | {"id": "b"})
    assert (status, [one["error"]["kind"] for one in answer["results"]]) == (200, ["data", "data"])
    assert (await score())[0] == 422


@pytest.mark.parametrize("name", [None, 7, "", "x" * 257], ids=["none", "a number", "empty", "too long"])
async def test_a_trajectory_without_a_name_is_named_by_its_place(name):
    _, answer = await score(trajectory("a"), trajectory("b") | {"id": name})
    assert answer["results"][1]["id"] == "/trajectories/1"


async def test_what_is_wrong_elsewhere_refuses_the_whole():
    both = {"trajectories": [SPOILT], "reward_version": 7}
    for body in (both, {"trajectories": [trajectory("spoilt"), SPOILT]}, {"trajectories": [SPOILT] * 257}):
        async with client_of(APP) as http:
            assert (await http.post("/v1/score", json=body)).status_code == 422
    assert MAX_TRAJECTORIES == 256


async def test_a_batch_too_has_an_error_in_the_place_of_what_is_malformed(tmp_path):
    items = [trajectory(f"t-{number}") for number in range(18)]
    items[17] = trajectory("spoilt", stop="flopped")
    async with replica(kept_in(tmp_path)) as http:
        accepted = await http.post("/v1/score/batches", json={"trajectories": items})
        assert accepted.status_code == 202
        found = accepted.json()["id"]
        await finished(http, found)
        results = (await http.get(f"/v1/score/batches/{found}/results")).json()["results"]
    assert [result["total"] for result in results] == [1.5] * 17 + [None]
    assert results[17]["error"]["pointer"] == "/trajectories/17/stop"


def test_a_request_that_fits_is_validated_once_and_a_spoilt_one_twice():
    adapter, read = TypeAdapter(ScoreRequest), []

    def counted(body: Any) -> ScoreRequest:
        read.append(body)
        return adapter.validate_python(body)

    one_by_one({"trajectories": [trajectory()]}, counted)
    assert len(read) == 1
    request = one_by_one({"trajectories": [trajectory(), SPOILT]}, counted)
    assert len(read) == 3
    assert [isinstance(item, MalformedItem) for item in request.trajectories] == [False, True]


def test_values_inside_python_are_refused_as_before():
    with pytest.raises(ValidationError):
        ScoreRequest.model_validate({"trajectories": [SPOILT]})
