"""What the contract refuses, and that it says where."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reward_service.rewards import StepReward, TrajectoryReward
from reward_service.service import scored_item
from reward_service.texts import MAX_CHARACTERS
from reward_service.wire import (
    MAX_STEPS,
    MAX_TRAJECTORIES,
    ScoredItem,
    ScoreOptions,
    ScoreRequest,
    ScoreResponse,
    TrajectoryItem,
)
from tests.reward_service.builders import call_step, item, trajectory

ANSWER_STEP = {"index": 0, "answer": "42"}
SIGNALS = {"success": 1.0, "contribution": None, "solved": None}


def request(*trajectories, **changes):
    return ScoreRequest.model_validate({"trajectories": trajectories or (trajectory(),)} | changes)


def answer(*steps):
    """The answer about a trajectory of two steps, with these rewards."""
    return scored_item(item(), TrajectoryReward("t-1", steps, None, "v"), ScoreOptions())


@pytest.mark.parametrize(
    ("steps", "stop", "message"),
    [
        ([{"index": 0}], "answered", "found none of call, answer and parse_error"),
        ([ANSWER_STEP | {"parse_error": "x"}], "answered", "set exactly one"),
        ([ANSWER_STEP | {"status": "ok"}], "answered", "status 'ok' without a call"),
        ([ANSWER_STEP | {"index": 1}], "answered", r"step indices \[1\]"),
        ([ANSWER_STEP, call_step(1)], "answered", r"answers at steps \[0\]"),
        ([call_step(0)], "answered", r"stop 'answered' with answers at steps \[\]"),
        ([], "answered", r"stop 'answered' with answers at steps \[\]"),
        (
            [ANSWER_STEP],
            "turn_too_long",
            "and none where it is 'turn_too_long'",
        ),
        ([call_step(0) | {"status": None}], "step_budget", r"no status for the calls at steps \[0\]"),
        ([call_step(0) | {"status": None}, call_step(1)], "infrastructure", r"no status for the calls at steps \[0\]"),
        ([call_step(0, before=-1)], "step_budget", "greater than or equal to 0"),
        ([call_step(0) | {"score": 1}], "step_budget", "Extra inputs are not permitted"),
        ([call_step(0, status="fine")], "step_budget", "Input should be 'ok'"),
        ([ANSWER_STEP], "bored", "Input should be 'answered'"),
    ],
)
def test_a_trajectory_that_contradicts_itself_is_refused(steps, stop, message):
    with pytest.raises(ValidationError, match=message):
        request(trajectory(steps=steps, stop=stop))


@pytest.mark.parametrize("steps", [[], [ANSWER_STEP], [call_step(0) | {"status": None}], [call_step(0)]])
def test_infrastructure_may_end_an_episode_anywhere(steps):
    assert len(TrajectoryItem.model_validate(trajectory(steps=steps, stop="infrastructure")).steps) == len(steps)


@pytest.mark.parametrize(
    ("steps", "stop"),
    [
        ([ANSWER_STEP, call_step(1), {"index": 2, "answer": "42"}], "answered"),
        ([ANSWER_STEP, {"index": 1, "answer": "42"}], "answered"),
        ([ANSWER_STEP, call_step(1)], "step_budget"),
        ([ANSWER_STEP], "step_budget"),
        ([ANSWER_STEP], "context_overflow"),
        ([ANSWER_STEP, {"index": 1, "parse_error": "turn ran out of tokens"}], "turn_too_long"),
    ],
)
def test_in_a_dialogue_an_answer_may_be_any_step(steps, stop):
    assert len(TrajectoryItem.model_validate(trajectory(steps=steps, stop=stop)).steps) == len(steps)


def test_the_toolsets_own_verdict_travels_and_may_be_left_out():
    sent = [request(one).trajectories[0] for one in (trajectory(), trajectory(checked=False))]
    assert [one.checked for one in sent if isinstance(one, TrajectoryItem)] == [None, False]


def test_a_task_has_one_target():
    task = {"id": "x", "level": "L0", "ground_truth": {"answer": "42", "state_hash": "abc"}}
    with pytest.raises(ValidationError, match="found both answer and state_hash"):
        request(trajectory(task=task))


def test_an_id_stands_for_one_trajectory():
    with pytest.raises(ValidationError, match=r"ids \['t-1'\] occur more than once"):
        request(trajectory(), trajectory())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_argument_that_json_cannot_carry_is_refused(number):
    step = call_step(0) | {"call": {"name": "f", "arguments": {"deep": [{"x": number}]}}}
    with pytest.raises(ValidationError, match="finite"):
        request(trajectory(steps=[step], stop="step_budget"))


def test_a_reward_is_a_finite_number():
    with pytest.raises(ValidationError, match="finite"):
        answer(StepReward(float("nan"), SIGNALS), StepReward(1.0, SIGNALS))


@pytest.mark.parametrize(
    ("over", "within"),
    [
        (lambda: request(*(trajectory(f"t-{n}") for n in range(MAX_TRAJECTORIES + 1))), MAX_TRAJECTORIES),
        (
            lambda: request(trajectory(steps=[call_step(n) for n in range(MAX_STEPS + 1)], stop="step_budget")),
            MAX_STEPS,
        ),
        (
            lambda: request(trajectory(steps=[{"index": 0, "answer": "x" * (MAX_CHARACTERS + 1)}])),
            MAX_CHARACTERS,
        ),
    ],
    ids=["trajectories", "steps", "characters"],
)
def test_a_request_over_a_limit_is_refused_with_the_limit(over, within):
    with pytest.raises(ValidationError, match=rf"at most {within}"):
        over()


def test_an_empty_request_is_refused():
    with pytest.raises(ValidationError, match="at least 1 item"):
        ScoreRequest.model_validate({"trajectories": []})


def test_rewards_survive_the_wire_and_abstaining_stays_abstaining():
    steps = (StepReward(0.5, SIGNALS), StepReward(None, dict.fromkeys(SIGNALS)))
    reward = TrajectoryReward("t-1", steps, None, "v")
    sent = ScoreResponse(reward_version="v", results=(answer(*steps),)).model_dump_json()
    result = ScoreResponse.model_validate_json(sent).results[0]
    assert isinstance(result, ScoredItem)
    assert result.trajectory_reward("v") == reward
