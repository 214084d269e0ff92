"""The three signals, case by case."""

from __future__ import annotations

import pytest

from reward_service.signals import (
    Answered,
    Called,
    Episode,
    Unparsed,
    contribution,
    distances,
    measure,
    solved,
    success,
)
from tests.reward_service.builders import RIGHT, WRONG, call, episode
from tool_sandbox.tasks import GroundTruth, StopReason
from tool_sandbox.tools import CallStatus, Progress

MODEL_ERRORS = sorted(set(CallStatus) - {CallStatus.OK, CallStatus.INFRA_ERROR})
STATE = GroundTruth(state_hash="abc", minimum_calls=1)
MODEL_STOPS = [StopReason.STEP_BUDGET, StopReason.CONTEXT_OVERFLOW, StopReason.TURN_TOO_LONG]


def test_a_call_that_ran_succeeded():
    assert success(call(2, 2)) == 1.0


@pytest.mark.parametrize("status", MODEL_ERRORS)
def test_every_error_of_the_model_is_a_failed_call(status):
    assert success(Called(status, Progress(2, 2))) == 0.0


def test_a_turn_that_could_not_be_parsed_is_a_failed_call_that_changed_nothing():
    assert (success(Unparsed("no JSON")), contribution(Unparsed("no JSON"))) == (0.0, 0.0)


def test_a_call_that_infrastructure_lost_has_no_signal_even_if_a_record_came_along():
    lost = Called(CallStatus.INFRA_ERROR, Progress(2, 2))
    assert (success(lost), contribution(lost)) == (None, None)


def test_an_answer_is_no_call():
    assert (success(RIGHT), contribution(RIGHT)) == (None, None)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(3, 2, 1.0), (2, 2, 0.0), (1, 2, -1.0), (5, 2, 1.0), (0, 4, -1.0)]
)
def test_contribution_is_the_decrease_of_the_remaining_distance_clipped_to_one_call(before, after, expected):
    assert contribution(call(before, after)) == expected


def test_contribution_abstains_without_a_progress_record():
    assert contribution(Called(CallStatus.OK, None)) is None


@pytest.mark.parametrize(("answer", "expected"), [("42", 1.0), (" 42.0 ", 1.0), ("42.", 1.0), ("41", 0.0), ("", 0.0)])
def test_the_right_answer_solves_however_it_is_spelled(answer, expected):
    assert solved(episode(Answered(answer))) == expected


@pytest.mark.parametrize("stop", MODEL_STOPS)
def test_an_episode_that_the_model_ran_out_of_is_unsolved(stop):
    assert solved(episode(call(2, 1), stop=stop)) == 0.0


@pytest.mark.parametrize("stop", MODEL_STOPS)
def test_a_state_that_was_reached_counts_without_an_answer(stop):
    assert solved(episode(call(1, 0), stop=stop, truth=STATE, state="abc")) == 1.0
    assert solved(episode(call(1, 1), stop=stop, truth=STATE, state="abd")) == 0.0


def test_a_state_that_was_missed_is_unsolved_whatever_the_answer_claims():
    assert solved(episode(Answered("done"), truth=STATE, state="abd")) == 0.0


def test_nobody_knows_whether_an_episode_was_solved_that_infrastructure_ended():
    assert solved(episode(call(2, 1), stop=StopReason.INFRASTRUCTURE)) is None


def test_the_toolsets_own_verdict_decides_over_answer_and_state():
    wrong_answer = Episode((WRONG,), GroundTruth(answer="42"), StopReason.ANSWERED, None, checked=True)
    assert solved(wrong_answer) == 1.0
    right_state = Episode((call(1, 0),), STATE, StopReason.STEP_BUDGET, "abc", checked=False)
    assert solved(right_state) == 0.0
    assert solved(Episode((WRONG,), GroundTruth(), StopReason.INFRASTRUCTURE, None, checked=True)) is None


def test_an_answer_in_the_middle_of_a_dialogue_is_no_call_and_no_final_answer():
    dialogue = episode(call(2, 1), RIGHT, call(1, 0), WRONG)
    middle = measure(dialogue)[1]
    assert (middle.success, middle.contribution, middle.solved) == (None, None, None)
    assert dialogue.answer == "41"
    assert episode(call(2, 1), RIGHT, stop=StopReason.STEP_BUDGET).answer is None


def test_nobody_knows_without_ground_truth():
    assert solved(episode(RIGHT, truth=GroundTruth())) is None


def test_is_solved_stands_at_the_last_step_only():
    assert [signals.solved for signals in measure(episode(call(2, 1), call(1, 0), WRONG))] == [None, None, 0.0]


def test_a_turn_that_ran_nothing_leaves_the_distance_where_it_was():
    turns = (Unparsed("no JSON"), call(2, 1), Unparsed("no JSON"), RIGHT)
    assert list(distances(episode(*turns))) == [Progress(2, 2), Progress(2, 1), Progress(1, 1), Progress(1, 1)]
