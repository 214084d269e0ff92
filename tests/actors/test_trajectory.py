"""A step that does not add up cannot be built, and a trajectory tells its tokens in the order of the engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.trajectory import ParseFailure, VersionSpan
from tests.actors.fakes import scored, step, trajectory
from tool_sandbox.tasks import StopReason


def test_a_step_needs_at_least_its_end_of_turn_token() -> None:
    with pytest.raises(ValueError, match="0 action tokens; expected at least the end-of-turn token"):
        step(())


def test_a_step_has_one_log_probability_for_each_sampled_token() -> None:
    with pytest.raises(ValueError, match="1 log-probabilities for 2 action tokens"):
        step((4, 5), logprobs=(-0.5,))


@pytest.mark.parametrize(
    ("spans", "complaint"),
    [
        ((), "version spans cover 0 of 3 action tokens"),
        ((VersionSpan(1, 0, 2),), "version spans cover 2 of 3 action tokens"),
        ((VersionSpan(1, 0, 4),), "version spans cover 4 of 3 action tokens"),
        ((VersionSpan(1, 1, 3),), "leave a gap at token 0"),
        ((VersionSpan(1, 0, 1), VersionSpan(2, 2, 3)), "leave a gap at token 1"),
        ((VersionSpan(1, 0, 2), VersionSpan(2, 1, 3)), "leave a gap at token 2"),
        ((VersionSpan(1, 0, 0), VersionSpan(2, 0, 3)), "leave a gap at token 0"),
    ],
)
def test_version_spans_cover_an_action_without_gap_or_overlap(spans: tuple[VersionSpan, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        step((4, 5, 6), versions=spans)


def test_an_action_may_be_sampled_by_two_versions() -> None:
    spans = (VersionSpan(1, 0, 2), VersionSpan(2, 2, 3))
    assert step((4, 5, 6), versions=spans).versions == spans


def test_a_trajectory_tells_its_tokens_as_the_engine_saw_them() -> None:
    told = trajectory(step((4, 5)), step((8,), prompt_ids=(6, 7)))
    assert list(told.token_ids()) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert told.token_count == 8


def test_only_a_last_step_that_answers_is_an_answer() -> None:
    assert trajectory(step()).answer == "7"
    assert trajectory(step(), step(action=ParseFailure("<tool_call>", "malformed tool call"))).answer is None
    assert trajectory().answer is None


def test_an_answer_that_the_user_replied_to_is_not_the_answer_of_the_trajectory() -> None:
    assert replace(trajectory(step(), step()), stop=StopReason.STEP_BUDGET).answer is None
    assert replace(trajectory(step()), stop=StopReason.INFRASTRUCTURE).answer is None


def test_rewards_that_do_not_match_the_steps_cannot_be_attached() -> None:
    with pytest.raises(ValueError, match="trajectory 't-1': 1 step rewards for 2 steps"):
        scored(trajectory(step(), step()), 0.5)
