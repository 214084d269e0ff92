"""The objective by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch

from learner.config import LossConfig, ReferenceKl
from learner.losses import (
    BatchScale,
    Credit,
    LossStats,
    clipped_objective,
    imitation_loss,
    k3,
    policy_loss,
    reinforcement_loss,
    value_loss,
)

CONFIG = LossConfig(clip_low=0.2, clip_high=0.28, importance_cap=5.0)


def credit(behaviour: list[float], advantages: list[float], targets: list[float] | None = None) -> Credit:
    return Credit(torch.tensor(behaviour), torch.tensor(advantages), torch.tensor(targets or []), None)


def test_the_objective_clips_each_side_as_ppo_does() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # gain capped at 1.28; loss kept at −1.5; gain kept at .5; loss capped at −.8; untouched 2.2
    expected = torch.tensor([1.28, -1.5, 0.5, -0.8, 2.2])
    torch.testing.assert_close(clipped_objective(ratio, advantages, CONFIG), expected)


def test_a_ratio_beyond_the_cap_has_no_gradient() -> None:
    ratio = torch.tensor([6.0, 4.0], requires_grad=True)
    clipped_objective(ratio, torch.tensor([-1.0, -1.0]), CONFIG).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0]


def test_on_policy_the_gradient_of_each_token_is_its_advantage_over_the_batch() -> None:
    """E[Σ_t Â_t Σ_i log π]: every token of a step pulls with the step's advantage."""
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    behaviour = credit([-1.0, -2.0, -3.0], [0.5, 0.5, -2.0])
    policy_loss(logprobs, behaviour, BatchScale(action_tokens=4, states=0), CONFIG).backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.125, -0.125, 0.5])


def test_the_ratio_is_taken_against_the_behaviour_log_probabilities() -> None:
    """steptool.md §1 defect 3: the published code recomputes "old" log-probabilities, so its ratio is always one."""
    logprobs = torch.tensor([math.log(0.3)])
    loss = policy_loss(logprobs, credit([math.log(0.25)], [1.0]), BatchScale(1, 0), CONFIG)
    assert float(loss) == pytest.approx(-1.2)


def test_cutting_a_batch_into_rows_changes_nothing() -> None:
    logprobs, behaviour = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.1, -1.9, -0.5])
    advantages = torch.tensor([1.0, -1.0, 0.3])
    scale = BatchScale(action_tokens=3, states=2)
    whole = policy_loss(logprobs, Credit(behaviour, advantages, torch.empty(0), None), scale, CONFIG)
    parts = [
        policy_loss(logprobs[s], Credit(behaviour[s], advantages[s], torch.empty(0), None), scale, CONFIG)
        for s in (slice(0, 1), slice(1, 3))
    ]
    assert float(whole) == pytest.approx(float(sum(parts)))


def test_value_loss_is_half_the_mean_square() -> None:
    loss = value_loss(torch.tensor([1.0, 0.0]), credit([], [], [0.0, 2.0]), BatchScale(1, states=2))
    assert float(loss) == pytest.approx((0.5 + 2.0) / 2)


def test_imitation_is_the_mean_negative_log_probability() -> None:
    assert float(imitation_loss(torch.tensor([-1.0, -3.0]), BatchScale(2, 0))) == 2.0


def test_k3_is_zero_for_equal_policies_and_positive_otherwise() -> None:
    found = k3(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -1.0 + math.log(2.0)]))
    assert found.tolist() == pytest.approx([0.0, 1.0 - math.log(2.0)])


def test_the_kl_term_pulls_towards_the_reference_where_the_advantage_is_zero() -> None:
    logprobs = torch.tensor([-1.0], requires_grad=True)
    held = Credit(torch.tensor([-1.0]), torch.tensor([0.0]), torch.empty(0), torch.tensor([-2.0]))
    config = LossConfig(kl=ReferenceKl(coef=0.1))
    row = reinforcement_loss(
        logprobs, torch.empty(0), torch.tensor([0.7]), held, BatchScale(1, 0), config, value_coef=0.0
    )
    row.loss.backward()
    # d k3 / d l = 1 − exp(o − l) = 1 − e⁻¹
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.1 * (1 - math.exp(-1))])
    assert row.stats.reference_kl_sum == pytest.approx(math.exp(-1))


def test_statistics_add_up_and_say_what_was_clipped() -> None:
    behaviour = credit([-1.0, -1.0], [1.0, -1.0])
    logprobs = torch.tensor([-1.0 + math.log(1.5), -1.0])
    row = reinforcement_loss(
        logprobs, torch.empty(0), torch.tensor([0.5, 0.7]), behaviour, BatchScale(2, 0), CONFIG, value_coef=0.0
    )
    summary = LossStats.total([row.stats, row.stats]).summary()
    assert summary["ratio_mean"] == pytest.approx(1.25)
    assert summary["ratio_max"] == pytest.approx(1.5)
    assert summary["clip_fraction"] == 0.5
    assert summary["entropy"] == pytest.approx(0.6)
    assert summary["policy_loss"] == pytest.approx(2 * -(1.28 - 1.0) / 2)
