"""Step-level GAE against hand-worked numbers and against RLlib's recursion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from learner.credit import assign_credit
from learner.credit.config import NoWhitening, StepGaeConfig
from learner.credit.step_gae import step_gae
from learner.credit.step_returns import step_returns
from tests.learner.builders import scored
from tool_sandbox.tasks import StopReason

PLAIN = NoWhitening()


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


def test_the_targets_are_what_the_advantages_exceed_the_values_by() -> None:
    config = StepGaeConfig(gamma=0.5, lam=0.5, whiten=PLAIN)
    (one,) = assign_credit([scored([0.0, 0.0, 1.0])], [(0.2, 0.4, 0.6)], config)
    assert one.advantages == pytest.approx((0.0, 0.0, 0.4))
    assert one.returns == pytest.approx((0.2, 0.4, 1.0))


def test_lambda_zero_is_one_step_temporal_difference() -> None:
    config = StepGaeConfig(gamma=0.5, lam=0.0, whiten=PLAIN)
    (one,) = assign_credit([scored([0.0, 1.0])], [(0.2, 0.6)], config)
    assert one.advantages == pytest.approx((0.1, 0.4))
    assert one.returns == pytest.approx((0.3, 1.0))


PAIRS = st.lists(st.tuples(st.floats(-1, 1), st.floats(-2, 2)), min_size=1, max_size=12)


@given(PAIRS, st.floats(0, 1), st.floats(0, 1))
def test_step_gae_agrees_with_rllib(pairs: list[tuple[float, float]], gamma: float, lam: float) -> None:
    rewards, values = (np.array(column) for column in zip(*pairs, strict=True))
    ended = np.array([0.0] * (len(pairs) - 1) + [1.0])
    targets = compute_value_targets(values, rewards, ended, np.zeros_like(ended), gamma, lam)
    assert step_gae(list(rewards), list(values), gamma, lam) == pytest.approx(list(targets - values), abs=1e-5)


@given(PAIRS, st.floats(0, 1), st.floats(0, 1), st.floats(-2, 2))
def test_a_cut_episode_agrees_with_rllibs_truncation(
    pairs: list[tuple[float, float]], gamma: float, lam: float, at_cut: float
) -> None:
    """RLlib appends the state at which it was cut; the last row is that state and no step of ours."""
    rewards, values = (np.array(column) for column in zip(*pairs, (0.0, at_cut), strict=True))
    truncated = np.array([0.0] * (len(pairs) - 1) + [1.0, 1.0])
    targets = compute_value_targets(values, rewards, np.zeros_like(truncated), truncated, gamma, lam)
    cut = scored([*rewards[:-1], None], solved=None, stop=StopReason.INFRASTRUCTURE)
    config = StepGaeConfig(gamma=gamma, lam=lam, whiten=PLAIN)
    (one,) = assign_credit([cut], [list(values)], config)
    assert one.returns[-1] is None
    assert list(one.returns[:-1]) == pytest.approx(list(targets[:-1]), abs=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 1))
def test_gae_with_lambda_one_and_no_critic_is_the_return(rewards: list[float], gamma: float) -> None:
    assert step_gae(rewards, [0.0] * len(rewards), gamma, 1.0) == pytest.approx(step_returns(rewards, gamma))
