"""Credit by hand-worked numbers. Several tests guard against defects of the published StepTool code."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from learner.config import (
    GroupOutcomeConfig,
    GroupStepConfig,
    ProgressTableConfig,
    ReinforceConfig,
    StepGaeConfig,
)
from learner.credit import CreditedTrajectory, assign_credit, step_gae, step_returns, summarise, whiten
from learner.errors import NoCredit
from learner.progress_table import ProgressTable, calls_needed
from tests.learner.builders import scored, step
from tool_sandbox.tasks import StopReason

ALL_ESTIMATORS: list[Any] = [StepGaeConfig(), GroupStepConfig(), GroupOutcomeConfig(), ReinforceConfig()]


def values_of(batch: list[Any], config: Any) -> list[tuple[float, ...]] | None:
    return [(0.25,) * len(one.reward.steps) for one in batch] if config.kind == "step_gae" else None


def numbers(one: CreditedTrajectory) -> list[float]:
    """Advantages of the steps that have one."""
    return [advantage for advantage in one.advantages if advantage is not None]


def test_the_final_reward_reaches_the_first_step_undiscounted() -> None:
    assert step_returns([0.0, 0.0, 1.0], gamma=1.0) == [1.0, 1.0, 1.0]
    assert step_gae([0.0, 0.0, 1.0], [0.0, 0.0, 0.0], gamma=1.0, lam=1.0) == [1.0, 1.0, 1.0]


def test_the_final_reward_reaches_the_first_step_halved_at_each_step() -> None:
    assert step_returns([0.0, 0.0, 1.0], gamma=0.5) == [0.25, 0.5, 1.0]
    assert step_gae([0.0, 0.0, 1.0], [0.0, 0.0, 0.0], gamma=0.5, lam=1.0) == [0.25, 0.5, 1.0]


def test_gae_by_hand_with_values() -> None:
    # δ = [0 + .5·.4 − .2, 0 + .5·.6 − .4, 1 − .6] = [0, −.1, .4]; γλ = .25; Â = [0 − .0, −.1 + .1, .4]
    assert step_gae([0.0, 0.0, 1.0], [0.2, 0.4, 0.6], gamma=0.5, lam=0.5) == pytest.approx([0.0, 0.0, 0.4])


def test_a_cut_episode_bootstraps_from_the_value_where_it_was_cut() -> None:
    assert step_gae([0.0], [0.2], gamma=0.5, lam=1.0, bootstrap=0.8) == pytest.approx([0.2])


def test_the_last_reward_is_not_multiplied_by_zero() -> None:
    """steptool.md §1 defect 1: the published code scales r_t by T − t − 1, so IsSolved never trains."""
    batch = [scored([0.0, 1.0], id="solved"), scored([0.0, 0.0], id="failed", solved=0.0)]
    for config in ALL_ESTIMATORS:
        good, bad = assign_credit(batch, values_of(batch, config), config)
        assert min(numbers(good)) > 0 > max(numbers(bad)), config.kind
        assert len(numbers(good)) == len(numbers(bad)) == 2


@pytest.mark.parametrize("config", ALL_ESTIMATORS, ids=lambda config: config.kind)
def test_a_longer_observation_changes_no_credit(config: Any) -> None:
    """steptool.md §1 defect 2: GAE through observation tokens decays to 8e-11 over 300 of them."""

    def batch(observation: int) -> list[Any]:
        steps = [step((1, 2), (3,)), step((9,) * observation, (4, 5)), step((9,), (6,))]
        return [
            scored([0.2, 0.4, 1.0], id="a", steps=steps),
            scored([0.2, 0.0, 0.0], id="b", steps=steps, solved=0.0),
        ]

    short, padded = batch(1), batch(300)
    a, b = (assign_credit(one, values_of(one, config), config) for one in (short, padded))
    assert [one.advantages for one in a] == [one.advantages for one in b]


def test_a_useless_middle_step_gets_less_than_a_useful_one() -> None:
    batch = [scored([0.5, 0.5, 1.0], id="useful"), scored([0.5, -0.1, 1.0], id="useless")]
    for config in (StepGaeConfig(), GroupStepConfig(), ReinforceConfig()):
        useful, useless = assign_credit(batch, values_of(batch, config), config)
        assert numbers(useful)[1] > numbers(useless)[1], config.kind


def test_one_number_per_trajectory_cannot_tell_them_apart_where_steps_can() -> None:
    batch = [scored([0.5, 0.5, 1.0], id="useful"), scored([0.5, -0.1, 1.0], id="useless")]
    outcome = assign_credit(batch, None, GroupOutcomeConfig())
    assert summarise(outcome).is_uniform


def test_group_step_normalises_within_the_group_and_the_step_index() -> None:
    batch = [scored([1.0, 1.0], id="a"), scored([0.0, 0.0], id="b", solved=0.0)]
    a, b = assign_credit(batch, None, GroupStepConfig(gamma=1.0))
    # returns [2, 1] and [0, 0]: means 1 and .5, deviations 1 and .5
    assert a.advantages == pytest.approx((1.0, 1.0))
    assert b.advantages == pytest.approx((-1.0, -1.0))
    assert a.returns == (2.0, 1.0)


def test_group_step_does_not_blow_up_a_group_that_hardly_differs() -> None:
    batch = [scored([0.02], id="a"), scored([0.0], id="b")]
    a, _ = assign_credit(batch, None, GroupStepConfig(min_std=0.1))
    assert a.advantages == pytest.approx((0.1,))


def test_a_step_that_only_one_trajectory_reached_is_compared_with_its_group() -> None:
    batch = [scored([0.0, 1.0], id="long"), scored([0.0], id="short", solved=0.0)]
    long, _ = assign_credit(batch, None, GroupStepConfig(gamma=1.0))
    # returns [1, 1] and [0]: the pooled mean is 2/3 and the deviation √2/3
    assert long.advantages[1] == pytest.approx((1 / 3) / (2**0.5 / 3))


def test_groups_do_not_touch_each_other() -> None:
    first = [scored([1.0], id="a", group="g"), scored([0.0], id="b", group="g", solved=0.0)]
    other = [scored([9.0], id="c", group="h"), scored([5.0], id="d", group="h", solved=0.0)]
    for config in (GroupStepConfig(), GroupOutcomeConfig()):
        alone = assign_credit(first, None, config)
        together = assign_credit(first + other, None, config)[:2]
        assert [one.advantages for one in alone] == [one.advantages for one in together]


@pytest.mark.parametrize("config", ALL_ESTIMATORS, ids=lambda config: config.kind)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_abstained_step_changes_no_other_steps_advantage(config: Any, at: int) -> None:
    without = [scored([0.3, 1.0], id="a"), scored([0.1, 0.0], id="b", solved=0.0)]
    rewards: list[float | None] = [0.3, 1.0]
    rewards.insert(at, None)
    with_one = [scored(rewards, id="a"), without[1]]
    values = [[0.4, 0.6], [0.2, 0.1]] if config.kind == "step_gae" else None
    more = [list(row) for row in values] if values else None
    if more:
        more[0].insert(at, 7.0)
    plain = assign_credit(without, values, config)
    abstaining = assign_credit(with_one, more, config)
    assert abstaining[0].advantages[at] is None
    assert abstaining[0].returns[at] is None
    kept = [number for number in abstaining[0].advantages if number is not None]
    assert kept == list(plain[0].advantages)
    assert abstaining[1].advantages == plain[1].advantages


def test_an_episode_that_infrastructure_cut_is_not_punished_for_it() -> None:
    cut = scored([0.5, None], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    batch = [cut, scored([0.5, 1.0], id="a"), scored([0.5, 0.0], id="b", solved=0.0)]
    for config in (GroupStepConfig(), GroupOutcomeConfig(), ReinforceConfig()):
        assert assign_credit(batch, None, config)[0].advantages == (None, None), config.kind
    gae = assign_credit(batch, [(0.5, 0.5)] * 3, StepGaeConfig(gamma=1.0, lam=1.0))
    # raw advantages: cut .5 + V(cut) .5 − .5 = .5; a 1, .5; b 0, −.5: the cut step lies between them
    assert numbers(gae[1])[0] > numbers(gae[0])[0] > numbers(gae[2])[0]
    assert gae[0].returns[0] == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-2, 2)), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1)
)
def test_step_gae_agrees_with_rllib(pairs: list[tuple[float, float]], gamma: float, lam: float) -> None:
    rewards, values = (np.array(column) for column in zip(*pairs, strict=True))
    ended = np.array([0.0] * (len(pairs) - 1) + [1.0])
    targets = compute_value_targets(values, rewards, ended, np.zeros_like(ended), gamma, lam)
    assert step_gae(list(rewards), list(values), gamma, lam) == pytest.approx(list(targets - values), abs=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 1))
def test_gae_with_lambda_one_and_no_critic_is_the_return(rewards: list[float], gamma: float) -> None:
    assert step_gae(rewards, [0.0] * len(rewards), gamma, 1.0) == pytest.approx(step_returns(rewards, gamma))


def test_whitening_gives_mean_zero_and_deviation_one() -> None:
    assert whiten([1.0, 2.0, 3.0]) == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5])
    assert whiten([2.0, 2.0]) == [0.0, 0.0]


@pytest.mark.parametrize("config", ALL_ESTIMATORS, ids=lambda config: config.kind)
def test_a_batch_of_uniform_groups_is_reported_and_not_refused(config: Any) -> None:
    batch = [scored([0.5, 1.0], id="a"), scored([0.5, 1.0], id="b")]
    # Equal advantages at both steps, or whitening would credit the difference between the steps.
    values = [(1.5, 1.0)] * 2 if config.kind == "step_gae" else None
    if config.kind == "step_gae":
        config = StepGaeConfig(gamma=1.0, lam=1.0)
    if config.kind == "reinforce":
        config = ReinforceConfig(gamma=0.0)
        batch = [scored([1.0, 1.0], id="a"), scored([1.0, 1.0], id="b")]
    summary = summarise(assign_credit(batch, values, config))
    assert summary.is_uniform
    assert (summary.groups, summary.uniform_groups, summary.steps, summary.zero) == (1, 1, 4, 4)


def test_differing_rewards_that_would_teach_nothing_are_refused() -> None:
    batch = [scored([1.0], id="a"), scored([0.0], id="b", solved=0.0)]
    with pytest.raises(NoCredit, match="rewards differ within 1 groups"):
        assign_credit(batch, [(1.0,), (0.0,)], StepGaeConfig())


def test_credit_that_is_not_finite_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        CreditedTrajectory(scored([1.0]), (float("nan"),), (1.0,))


def test_gae_without_values_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="no values; expected V"):
        assign_credit([scored([1.0])], None, StepGaeConfig())


def test_an_unknown_setting_is_rejected() -> None:
    with pytest.raises(ValidationError, match="lambda"):
        StepGaeConfig.model_validate({"kind": "step_gae", "lambda": 0.9})


def table_batch() -> list[Any]:
    steps = [step((1,), (2,), progress=(2, 1)), step((1,), (2,), progress=(1, 0)), step((1,), (2,))]
    return [
        scored([0.0, 0.0, 1.0], id="a", steps=steps),
        scored([0.0, 0.0, 0.0], id="b", steps=steps, solved=0.0),
        scored([0.0, 0.0, 1.0], id="c", steps=steps),
    ]


def test_calls_needed_follow_the_ground_truth_through_the_answer() -> None:
    assert calls_needed(table_batch()[0].trajectory) == [2, 1, 0]
    assert calls_needed(scored([0.0]).trajectory) == [2]


def test_the_progress_table_leaves_a_trajectorys_own_return_out() -> None:
    table = ProgressTable(ProgressTableConfig(prior_visits=1.0), gamma=1.0)
    a, b, c = table.values(table_batch())
    # The others of `a` earned 0 and 1: every mean is ½. Those of `b` earned 1 and 1.
    assert a == c == pytest.approx((0.5, 0.5, 0.5))
    assert b == pytest.approx((1.0, 1.0, 1.0))


def test_the_progress_table_shrinks_a_rare_cell_to_the_coarser_mean() -> None:
    table = ProgressTable(ProgressTableConfig(prior_visits=1.0), gamma=1.0)
    near = [scored([1.0], id=f"n{i}", steps=[step((1,), (2,), progress=(1, 0))]) for i in range(3)]
    far = scored([0.0], id="far", steps=[step((1,), (2,), progress=(5, 5))], solved=0.0)
    table.learn([*near, far])
    fresh = scored([0.0], id="new", steps=[step((1,), (2,), progress=(5, 4))], solved=0.0)
    unseen = scored([0.0], id="odd", steps=[step((1,), (2,), progress=(9, 8))], solved=0.0)
    ((rare,),), ((never,),) = table.values([fresh]), table.values([unseen])
    # Everything ¾; distance 5: (0 + ¾)/2 = ⅜; its cell: (0 + ⅜)/2 = 3/16. A distance never seen keeps ¾.
    assert rare == pytest.approx(3 / 16)
    assert never == pytest.approx(3 / 4)


def test_the_progress_table_tells_near_from_far() -> None:
    table = ProgressTable(ProgressTableConfig(), gamma=0.5)
    table.learn(table_batch())
    far, nearer, done = table.values(table_batch())[0]
    assert far < nearer < done


def test_the_progress_table_round_trips() -> None:
    table = ProgressTable(ProgressTableConfig(), gamma=0.9)
    table.learn(table_batch())
    again = ProgressTable(ProgressTableConfig(), gamma=0.9)
    again.restore(json.loads(json.dumps(table.state())))
    assert again.values(table_batch()) == table.values(table_batch())
    assert again.state() == table.state()
