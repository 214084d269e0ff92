"""The numbers of `steptool bench credit`, by hand, and one small run of it."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.bench_credit import (
    ESTIMATORS,
    Judged,
    bench_credit,
    correlation,
    judged_groups,
    moments,
    ordered_pairs,
    paid_by_outcome,
    share_in_order,
    with_interval,
)
from cluster.credit_world import MAX_STEPS, continuations, played_batch
from cluster.presets import load_config
from learner.credit.config import ArcherConfig
from reward_service.config import LinearShaping, RewardConfig
from tests.learner.builders import credited, scored, step
from tests.learner.credit.estimators import ALL


def judged(*rows: tuple[float, float, int]) -> Judged:
    columns = np.array(rows, dtype=np.float64)
    return Judged(columns[:, 0], columns[:, 1], columns[:, 2])


def test_the_correlation_of_many_groups_is_that_of_all_their_calls_together() -> None:
    # Advantages 1, 2, 3 beside worths 0, 1, 1: covariance 1, spreads √2 and √(2/3) times √3 each, so r = √3 / 2.
    parts = [judged((1.0, 0.0, 0)), judged((2.0, 1.0, 0), (3.0, 1.0, 1))]
    sums = sum(moments(part) for part in parts)
    assert correlation(np.asarray(sums)[None]) == pytest.approx([3**0.5 / 2])


def test_advantages_that_do_not_differ_correlate_with_nothing() -> None:
    assert correlation(moments(judged((0.5, 0.0, 0), (0.5, 1.0, 0)))[None]) == pytest.approx([0.0])


def test_only_pairs_of_one_trajectory_whose_worths_differ_count_and_a_tie_is_half_right() -> None:
    group = judged((2.0, 1.0, 0), (1.0, 0.0, 0), (5.0, 0.0, 0), (3.0, 1.0, 1), (3.0, 0.0, 1), (9.0, 0.0, 2))
    # Trajectory 0: one right, one wrong. Trajectory 1: a tie. Trajectory 2: nothing to compare.
    assert ordered_pairs(group).tolist() == [1.5, 3.0]
    assert share_in_order(ordered_pairs(group)[None]) == pytest.approx([0.5])


def test_groups_that_are_all_alike_leave_no_doubt() -> None:
    pairs = np.array([[1.0, 2.0]] * 10)
    assert with_interval(pairs, share_in_order) == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_a_call_without_credit_is_left_out_or_counts_as_nothing() -> None:
    steps = [step((1,), (k,)) for k in range(3)]
    group = [credited([2.0, 1.0, 0.5], steps, id="a"), credited([None, None, None], steps, id="b")]
    # The last step of each is an answer, whose worth nobody asks.
    (found,) = judged_groups(group, [[1.0, 0.0, None], [1.0, 1.0, None]])
    assert found.credited().advantages.tolist() == [2.0, 1.0]
    assert correlation(moments(found.credited())[None]) == pytest.approx([1.0])
    assert found.filled().advantages.tolist() == [2.0, 1.0, 0.0, 0.0]
    # Means ¾ and ¾; products .3125 − .1875 − .1875 − .1875; squares 2.75 and .75.
    assert correlation(moments(found.filled())[None]) == pytest.approx([-0.25 / (2.75 * 0.75) ** 0.5])


def test_the_critic_of_ppo_on_outcomes_learns_what_the_outcome_pays() -> None:
    paid = [paid_by_outcome(scored([0.5, None, 0.3], solved=solved)) for solved in (1.0, 0.0)]
    assert [[one.value for one in each.reward.steps] for each in paid] == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert paid_by_outcome(scored([], steps=[])).reward.steps == ()


def test_the_same_state_of_a_group_is_played_from_once_and_every_state_as_often() -> None:
    batch = played_batch(0)[:16]
    found = continuations(load_config("quickstart").rewards, 1.0)(batch, 3)
    assert [[len(returns) for returns in one] for one in found] == [[3] * len(one.steps) for one in batch]
    # All that a group shares is the prompt, and its state has one set of returns.
    assert {tuple(one[0]) for one in found[:8]} == {tuple(found[0][0])}
    assert max(len(one.steps) for one in batch) <= MAX_STEPS


def test_playing_on_from_a_state_earns_what_comes_after_it_alone() -> None:
    """At the last of eight steps there is one left: the answer, which earns 1, or a call, which earns 0.5 at most."""
    rewards = RewardConfig(shaping=LinearShaping(success=0.0, contribution=0.5, step_cost=0.0, solved=1.0))
    longest = next(one for number in range(24) for one in played_batch(number) if len(one.steps) == MAX_STEPS)
    (found,) = continuations(rewards, 1.0)([longest], 20)
    assert max(found[-1]) <= 1.0
    assert max(found[0]) > 1.0


def test_every_estimator_is_measured_but_the_one_that_needs_a_model() -> None:
    assert {config.kind for config in ALL} - set(ESTIMATORS) == {ArcherConfig().kind}


def test_step_credit_orders_the_calls_of_a_trajectory_and_one_number_for_all_of_them_cannot() -> None:
    found = bench_credit(batches=1)
    assert found["trajectories"] == 64
    estimators = found["estimators"]
    assert set(estimators) == set(ESTIMATORS)
    assert estimators["grpo"]["order"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert estimators["step_returns"]["order"]["low"] > 0.5
    assert estimators["monte_carlo"]["order"]["low"] > 0.5
    # Credit by the truth itself.
    whole = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [estimators["leave_one_out"][name] for name in ("correlation", "correlation_of_all", "order")] == [whole] * 3
    assert estimators["leave_one_out"]["calls"] == found["calls"]
    # Failures have no credit.
    assert estimators["rft"]["calls"] < found["calls"]
