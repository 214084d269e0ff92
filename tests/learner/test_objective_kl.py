"""Estimates of KL, the coefficient that follows it, and KL as part of the reward, by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch

from actors.scoring import ScoredTrajectory
from learner.objective.config import AdaptiveControl, FixedControl
from learner.objective.kl import estimate, k1, k2, k3, next_coefficient
from learner.objective.penalty import penalise, sum_by_step
from reward_service.rewards import Component, StepReward, TrajectoryReward
from tests.learner.builders import scored, step


def test_the_estimators_are_zero_for_equal_policies() -> None:
    same = torch.tensor([-1.0, -5.0])
    assert [one(same, same).tolist() for one in (k1, k2, k3)] == [[0.0, 0.0]] * 3


def test_the_estimators_by_hand() -> None:
    logprobs, other = torch.tensor([-1.0]), torch.tensor([-1.0 + math.log(2.0)])
    assert estimate(logprobs, other, "k1").tolist() == pytest.approx([-math.log(2.0)])
    assert estimate(logprobs, other, "k2").tolist() == pytest.approx([0.5 * math.log(2.0) ** 2])
    assert estimate(logprobs, other, "k3").tolist() == pytest.approx([1.0 - math.log(2.0)])


def test_k1_and_k3_are_right_on_average_and_k2_has_the_right_gradient() -> None:
    """All three outcomes of a distribution weighted by their probability: the expectation itself, no sampling."""
    logits = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    other = torch.log_softmax(torch.tensor([0.1, 0.4, 0.2]), 0)
    log_p = torch.log_softmax(logits, 0)
    p = log_p.exp().detach()
    exact = (log_p.exp() * (log_p - other)).sum()
    expected = float(exact.detach())
    for one in (k1, k3):
        assert float((p * one(log_p.detach(), other)).sum()) == pytest.approx(expected)
    (right,) = torch.autograd.grad(exact, logits, retain_graph=True)
    gradients = [torch.autograd.grad((p * one(log_p, other)).sum(), logits, retain_graph=True)[0] for one in (k1, k2)]
    torch.testing.assert_close(gradients[0], torch.zeros(3), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(gradients[1], right)


def test_an_adaptive_coefficient_rises_where_kl_is_above_its_target_and_falls_below() -> None:
    control = AdaptiveControl(target=0.1, horizon=1000)
    # 10 % too high over 100 of 1000 trajectories: a factor of 1.01.
    assert next_coefficient(0.5, 0.11, 100, control) == pytest.approx(0.5 * 1.01)
    assert next_coefficient(0.5, 0.09, 100, control) == pytest.approx(0.5 * 0.99)
    # However far off, the error counts as 20 %.
    assert next_coefficient(0.5, 7.0, 100, control) == pytest.approx(0.5 * 1.02)
    assert next_coefficient(0.5, 0.0, 100, control) == pytest.approx(0.5 * 0.98)


def test_one_batch_moves_an_adaptive_coefficient_by_a_fifth_at_most_however_short_the_horizon() -> None:
    """A negative coefficient would pay for leaving the reference."""
    control = AdaptiveControl(target=0.1, horizon=8)
    assert next_coefficient(0.01, 0.0, 48, control) == pytest.approx(0.008)
    assert next_coefficient(0.01, 7.0, 48, control) == pytest.approx(0.012)
    assert next_coefficient(0.01, 0.09, 4, control) == pytest.approx(0.01 * 0.95)


def test_a_fixed_coefficient_stays() -> None:
    assert next_coefficient(0.5, 7.0, 100, FixedControl()) == 0.5


def test_each_step_pays_for_its_own_tokens() -> None:
    one = scored([0.5, None, 1.0], steps=[step((1,), (2, 3)), step((4,), (5,)), step((6,), (7, 8))])
    costs = sum_by_step(one.trajectory, [0.1, 0.2, 5.0, 0.3, -0.1])
    assert costs == pytest.approx((0.3, 5.0, 0.2))
    (found,) = penalise([one], [costs])
    rewards = [reward.value for reward in found.reward.steps]
    assert rewards[1] is None
    assert [rewards[0], rewards[2]] == pytest.approx([0.2, 0.8])
    assert found.reward.solved == 1.0
    assert found.trajectory is one.trajectory


def test_a_penalty_is_a_component_of_the_reward_where_components_are_known() -> None:
    trajectory = scored([0.5]).trajectory
    reward = StepReward(0.5, {}, (Component("success", 1.0, 0.5),))
    (found,) = penalise([ScoredTrajectory(trajectory, TrajectoryReward("t-0", (reward,), 1.0, "v1"))], [(0.2,)])
    assert sum(one.value for one in found.reward.steps[0].components) == pytest.approx(0.3)
    assert found.reward.steps[0].value == pytest.approx(0.3)


def test_numbers_for_another_trajectory_are_refused() -> None:
    one = scored([0.5], steps=[step((1,), (2, 3))])
    with pytest.raises(ValueError, match="trajectory 't-0': 1 numbers for 2 action tokens"):
        sum_by_step(one.trajectory, [0.1])
