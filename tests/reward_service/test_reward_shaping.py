"""Step rewards with numbers worked by hand.

Guards against what was found in the published code: the last reward multiplied by zero, and a shaping that pays for
calls which lead nowhere (its step rewards are never negative).
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from reward_service import shaping as shaping_module
from reward_service.config import LinearShaping, OutcomeShaping, PaperShaping, PotentialShaping, RewardConfig, Shaping
from reward_service.errors import UnscorableTrajectory
from reward_service.shaping import MissingSignal
from reward_service.signals import Called, Unparsed
from tests.reward_service.builders import RIGHT, WRONG, call, episode, item, score, step_rewards, version_of
from tool_sandbox.tasks import GroundTruth, StopReason
from tool_sandbox.tools import CallStatus, Progress

EVERY_SHAPING = [LinearShaping(), PaperShaping(), PotentialShaping(), OutcomeShaping()]
PLAIN = LinearShaping(success=0.5, contribution=0.5, step_cost=0.0)
DIRECT = episode(call(2, 1), call(1, 0), RIGHT)
STALLING = episode(call(2, 1), call(1, 1), call(1, 0), RIGHT)
LOST = Called(CallStatus.INFRA_ERROR, None)


def total(rewards):
    return sum(reward for reward in rewards if reward is not None)


def test_the_default_gives_every_step_its_own_reward():
    # 0.6 · 1 − 0.1, twice; then 1 for the right answer.
    assert step_rewards(DIRECT, LinearShaping()) == pytest.approx((0.5, 0.5, 1.0))


def test_a_useless_successful_call_costs_and_a_harmful_one_costs_more():
    rewards = step_rewards(episode(call(1, 1), call(1, 2), WRONG), LinearShaping())
    assert rewards == pytest.approx((-0.1, -0.7, 0.0))


def test_success_has_its_own_weight():
    failed = call(1, 1, CallStatus.TOOL_ERROR)
    rewards = step_rewards(episode(call(2, 1), failed, RIGHT), LinearShaping(success=0.2))
    assert rewards == pytest.approx((0.2 + 0.6 - 0.1, -0.1, 1.0))


def test_a_wrong_answer_costs_what_the_configuration_says():
    assert step_rewards(episode(WRONG), LinearShaping(wrong_cost=0.3)) == pytest.approx((-0.3,))


def test_a_trajectory_that_ends_in_a_call_gets_its_step_reward_less_the_cost_of_being_wrong():
    spent = episode(call(2, 1), call(1, 0), stop=StopReason.STEP_BUDGET)
    assert step_rewards(spent, LinearShaping(wrong_cost=0.3)) == pytest.approx((0.5, 0.5 - 0.3))


def test_a_call_that_reached_the_target_state_in_the_last_step_earns_the_outcome_too():
    truth = GroundTruth(state_hash="abc", minimum_calls=1)
    reached = episode(call(1, 0), stop=StopReason.STEP_BUDGET, truth=truth, state="abc")
    assert step_rewards(reached, LinearShaping()) == pytest.approx((0.5 + 1.0,))


def test_a_turn_that_never_ended_is_a_failed_step_and_no_answer():
    endless = episode(Unparsed("turn ran out of tokens"), stop=StopReason.TURN_TOO_LONG)
    assert step_rewards(endless, LinearShaping()) == pytest.approx((-0.1,))


def test_the_papers_shaping_is_the_mean_of_success_and_contribution():
    failed, harmful = call(2, 2, CallStatus.TOOL_ERROR), call(1, 2)
    rewards = step_rewards(episode(failed, call(2, 1), harmful, RIGHT), PaperShaping())
    assert rewards == pytest.approx((0.0, 1.0, 0.5, 1.0))


@pytest.mark.parametrize("shaping", [PaperShaping(), PLAIN], ids=["paper", "plain"])
def test_the_papers_shaping_pays_for_stalling(shaping):
    gain = total(step_rewards(STALLING, shaping)) - total(step_rewards(DIRECT, shaping))
    assert gain == pytest.approx(0.5)


@pytest.mark.parametrize("shaping", [LinearShaping(), PotentialShaping()], ids=["linear", "potential"])
def test_the_defaults_make_stalling_cost_one_step(shaping):
    loss = total(step_rewards(DIRECT, shaping)) - total(step_rewards(STALLING, shaping))
    assert loss == pytest.approx(0.1)


def test_a_useless_middle_step_gets_less_than_a_useful_one():
    useful, useless, later, _ = step_rewards(STALLING, LinearShaping())
    assert useless is not None
    assert useful is not None
    assert later is not None
    assert useless < min(useful, later)


def test_the_outcome_alone_is_the_baseline():
    assert step_rewards(STALLING, OutcomeShaping()) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("shaping", EVERY_SHAPING, ids=lambda shaping: shaping.kind)
def test_an_answer_that_the_user_replied_to_earns_and_costs_nothing(shaping):
    dialogue = episode(call(2, 1), WRONG, call(1, 0), RIGHT)
    straight = episode(call(2, 1), call(1, 0), RIGHT)
    first, between, *rest = step_rewards(dialogue, shaping)
    assert between == 0.0
    assert (first, *rest) == pytest.approx(step_rewards(straight, shaping))


@pytest.mark.parametrize("shaping", EVERY_SHAPING, ids=lambda shaping: shaping.kind)
def test_a_budget_that_ends_between_two_turns_of_the_user_is_not_solved_by_the_answer(shaping):
    stopped = episode(call(2, 1), RIGHT, stop=StopReason.STEP_BUDGET)
    assert step_rewards(stopped, shaping)[-1] == 0.0


@pytest.mark.parametrize("shaping", EVERY_SHAPING, ids=lambda shaping: shaping.kind)
@pytest.mark.parametrize("calls", [0, 1, 4])
def test_the_last_reward_tells_right_from_wrong_at_every_length(shaping, calls):
    """The published code multiplies it by T − T = 0, so IsSolved never trains."""
    turns = [call(9 - done, 8 - done) for done in range(calls)]
    right = step_rewards(episode(*turns, RIGHT), shaping)[-1]
    wrong = step_rewards(episode(*turns, WRONG), shaping)[-1]
    assert (right, wrong) == (1.0, 0.0)


@pytest.mark.parametrize("kind", ["linear", "potential", "outcome_only"])
def test_a_final_reward_without_weight_is_refused(kind):
    with pytest.raises(ValidationError, match="greater than 0"):
        TypeAdapter(Shaping).validate_python({"kind": kind, "solved": 0.0})


@given(
    moves=st.lists(st.integers(0, 9), min_size=2, max_size=8),
    discount=st.floats(0.5, 1.0),
    scale=st.floats(0.1, 3.0),
)
def test_the_potential_telescopes_over_any_walk(moves, discount, scale):
    """Σ γ^t·r_t = γ^n·Φ(s_n) − Φ(s_0): where one goes in between does not count."""
    shaping = PotentialShaping(scale=scale, discount=discount, step_cost=0.0)
    calls = [call(before, after) for before, after in itertools.pairwise(moves)]
    *rewards, _ = step_rewards(episode(*calls, WRONG), shaping)
    discounted = sum(discount**step * reward for step, reward in enumerate(rewards) if reward is not None)
    assert discounted == pytest.approx(scale * (moves[0] - discount ** len(calls) * moves[-1]))


def test_the_potential_by_hand():
    # Φ: −2·0.5 → −1·0.5 → −1·0.5 → 0, γ = 0.5; a parse failure stays at distance 1.
    turns = episode(call(2, 1), Unparsed("no JSON"), call(1, 0), RIGHT)
    shaping = PotentialShaping(scale=0.5, discount=0.5, step_cost=0.0, solved=2.0)
    assert step_rewards(turns, shaping) == pytest.approx((-0.25 + 1.0, -0.25 + 0.5, 0.5, 2.0))


@pytest.mark.parametrize("shaping", EVERY_SHAPING, ids=lambda shaping: shaping.kind)
def test_a_lost_call_abstains_and_changes_no_other_step(shaping):
    with_it = step_rewards(episode(call(2, 1), LOST, call(1, 0), RIGHT), shaping)
    assert with_it == (*step_rewards(DIRECT, shaping)[:1], None, *step_rewards(DIRECT, shaping)[1:])


@pytest.mark.parametrize("shaping", EVERY_SHAPING, ids=lambda shaping: shaping.kind)
@pytest.mark.parametrize("last", [LOST, call(1, 0)], ids=["lost", "before the loss"])
def test_an_episode_that_infrastructure_ended_keeps_its_good_steps_and_abstains_at_its_last(shaping, last):
    first, final = step_rewards(episode(call(2, 1), last, stop=StopReason.INFRASTRUCTURE), shaping)
    assert first == step_rewards(DIRECT, shaping)[0]
    assert final is None


@pytest.mark.parametrize("shaping", EVERY_SHAPING, ids=lambda shaping: shaping.kind)
def test_the_answer_to_a_task_without_ground_truth_abstains(shaping):
    assert step_rewards(episode(RIGHT, truth=GroundTruth()), shaping) == (None,)


@pytest.mark.parametrize(
    "shaping", [LinearShaping(), PaperShaping(), PotentialShaping()], ids=lambda shaping: shaping.kind
)
def test_a_shaping_that_needs_a_distance_refuses_a_task_without_one(shaping):
    with pytest.raises(MissingSignal, match="step 1: no progress record"):
        step_rewards(episode(call(2, 1), Called(CallStatus.OK, None), RIGHT), shaping)


@pytest.mark.parametrize("shaping", [LinearShaping(success=0.3, contribution=0.0), OutcomeShaping()])
def test_a_shaping_without_contribution_needs_no_distance(shaping):
    rewards = step_rewards(episode(Called(CallStatus.OK, None), RIGHT), shaping)
    assert rewards == pytest.approx((0.2 if shaping.kind == "linear" else 0.0, 1.0))


def test_scoring_names_the_trajectory_that_it_refuses():
    steps = [{"index": 0, "call": {"name": "f", "arguments": {}}, "status": "ok"}, {"index": 1, "answer": "42"}]
    with pytest.raises(UnscorableTrajectory, match=r"trajectory 't-9': step 0: no progress record"):
        score(item("t-9", steps=steps), LinearShaping())


def test_scoring_refuses_a_state_target_without_the_final_state():
    task = {"id": "w", "level": "L3", "ground_truth": {"state_hash": "abc"}}
    with pytest.raises(UnscorableTrajectory, match="final_state_hash is null"):
        score(item(task=task), OutcomeShaping())


def test_scoring_needs_no_state_where_the_toolset_has_judged():
    task = {"id": "w", "level": "L3", "ground_truth": {"state_hash": "abc"}}
    assert score(item(task=task, checked=True), OutcomeShaping()).solved == 1.0


def test_scoring_keeps_the_raw_signals_beside_the_rewards():
    reward = score(item(), LinearShaping())
    assert [step.value for step in reward.steps] == pytest.approx([0.5, 1.0])
    assert dict(reward.steps[0].signals) == {"success": 1.0, "contribution": 1.0, "solved": None}
    assert dict(reward.steps[1].signals) == {"success": None, "contribution": None, "solved": 1.0}
    assert (reward.solved, reward.reward_version) == (1.0, version_of(LinearShaping()))


def test_a_trajectory_without_steps_has_no_rewards_and_a_verdict():
    reward = score(item(steps=[], stop="context_overflow"), LinearShaping())
    assert (reward.steps, reward.solved) == ((), 0.0)


def test_every_setting_of_a_shaping_changes_the_version_of():
    # `extra` wants added signals; what its weights do to the version is among the tests of these.
    numbers = LinearShaping.model_fields.keys() - {"kind", "extra"}
    changed = [LinearShaping.model_validate({field: 0.7}) for field in numbers]
    versions = {version_of(shaping) for shaping in [*EVERY_SHAPING, *changed]}
    assert len(versions) == len(EVERY_SHAPING) + len(changed)


def test_a_change_of_the_signals_changes_the_version_of(monkeypatch):
    before = version_of(LinearShaping())
    monkeypatch.setattr(shaping_module, "SIGNALS_VERSION", 999)
    assert version_of(LinearShaping()) != before


def test_equal_settings_have_one_version_however_they_were_written():
    written = RewardConfig.model_validate({"shaping": {"solved": 1, "kind": "linear"}})
    assert version_of(written.shaping) == version_of(LinearShaping())


@pytest.mark.parametrize("bad", [{"kind": "linear", "contribution": float("nan")}, {"kind": "linear", "sucess": 1}])
def test_a_shaping_with_a_typo_or_without_a_number_is_refused(bad):
    with pytest.raises(ValidationError):
        RewardConfig.model_validate({"shaping": bad})


def test_progress_records_of_failed_calls_count_as_no_progress():
    failed = Called(CallStatus.TIMEOUT, Progress(2, 2))
    assert step_rewards(episode(failed, WRONG), LinearShaping()) == pytest.approx((-0.1, 0.0))
