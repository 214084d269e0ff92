"""Aggregation, the KL, entropy and value terms, and what a row's statistics say, by hand-worked numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learner.objective.aggregation import BatchScale, aggregate
from learner.objective.config import CispoConfig, EntropyBonus, LossConfig, ReferenceKl
from learner.objective.critic import value_loss
from learner.objective.loss import ValueTerm, imitation_loss
from learner.objective.stats import LossStats
from tests.learner.rows import loss_of, row, scale_of

LENGTHS = [[2, 1], [1]]


def test_every_token_step_or_trajectory_weighs_the_same() -> None:
    """Token values 1, 2 | 6 ‖ 8: (17)/4; (1.5 + 6 + 8)/3; (3 + 8)/2."""
    numbers, credit, scale = torch.tensor([1.0, 2.0, 6.0, 8.0]), row(LENGTHS, [0.0] * 4, [0.0] * 4), scale_of(LENGTHS)
    assert float(aggregate(numbers, credit, scale, "token_mean")) == pytest.approx(4.25)
    assert float(aggregate(numbers, credit, scale, "step_mean")) == pytest.approx(15.5 / 3)
    assert float(aggregate(numbers, credit, scale, "trajectory_mean")) == pytest.approx(5.5)


@pytest.mark.parametrize("aggregation", ["token_mean", "step_mean", "trajectory_mean"])
def test_the_rows_of_a_batch_add_up_wherever_it_is_cut(aggregation: str) -> None:
    config, scale = LossConfig.model_validate({"aggregation": aggregation}), scale_of(LENGTHS)
    logprobs, behaviour = [-1.0, -2.0, -0.5, -0.1], [-1.1, -1.9, -0.5, -0.3]
    advantages = [1.0, 1.0, -1.0, 0.3]
    whole = loss_of(torch.tensor(logprobs), row(LENGTHS, behaviour, advantages), scale, config).loss
    first = loss_of(torch.tensor(logprobs[:3]), row(LENGTHS[:1], behaviour[:3], advantages[:3]), scale, config).loss
    second = loss_of(torch.tensor(logprobs[3:]), row(LENGTHS[1:], behaviour[3:], advantages[3:]), scale, config).loss
    assert float(whole) == pytest.approx(float(first + second))


def test_on_policy_the_gradient_of_each_token_is_its_advantage_over_the_batch() -> None:
    """E[Σ_t Â_t Σ_i log π]: every token of a step pulls with the step's advantage."""
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    credit = row([[2, 1]], [-1.0, -2.0, -3.0], [0.5, 0.5, -2.0])
    loss_of(logprobs, credit, BatchScale(action_tokens=4, steps=3, trajectories=1, states=0)).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.125, -0.125, 0.5])


def test_imitation_is_the_mean_negative_log_probability() -> None:
    assert float(imitation_loss(torch.tensor([-1.0, -3.0]), 2)) == 2.0


def test_value_loss_is_half_the_mean_square() -> None:
    credit = row([], [], [], value_targets=[0.0, 2.0])
    assert float(value_loss(torch.tensor([1.0, 0.0]), credit, scale_of([], 2), None)) == pytest.approx((0.5 + 2.0) / 2)


def test_a_value_gains_nothing_by_leaving_the_band_about_the_old_one() -> None:
    """Old values 0, band ±0.5, targets 2 and 2: V = 1 counts as 0.5, and V = −1 as itself, which is worse."""
    credit = row([], [], [], value_targets=[2.0, 2.0], old_values=[0.0, 0.0])
    values = torch.tensor([1.0, -1.0], requires_grad=True)
    loss = value_loss(values, credit, scale_of([], 2), 0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 * (1.5**2 + 3.0**2) / 2)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -1.5])


def test_clipping_values_that_were_not_read_before_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="clip without old values; read V of every state"):
        value_loss(torch.tensor([1.0]), row([], [], [], value_targets=[2.0]), scale_of([], 1), 0.5)


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        # l − o = ln 2: ½ ln² 2 with gradient ln 2; k3 = ½ + ln 2 − 1 with gradient 1 − ½.
        ("k2", 0.5 * math.log(2.0) ** 2, math.log(2.0)),
        ("k3", math.log(2.0) - 0.5, 0.5),
    ],
)
def test_the_kl_term_pulls_towards_the_reference_where_the_advantage_is_zero(
    estimator: str, value: float, gradient: float
) -> None:
    logprobs = torch.tensor([-1.0], requires_grad=True)
    credit = row([[1]], [-1.0], [0.0], reference=[-1.0 - math.log(2.0)])
    config = LossConfig(kl=ReferenceKl.model_validate({"estimator": estimator}))
    found = loss_of(logprobs, credit, scale_of([[1]]), config, kl=0.1)
    found.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.1 * gradient])
    assert found.stats.kl_loss == pytest.approx(0.1 * value)
    summary = found.stats.summary()
    names = ("reference_k1", "reference_k2", "reference_k3")
    expected = [math.log(2.0), 0.5 * math.log(2.0) ** 2, math.log(2.0) - 0.5]
    assert [summary[name] for name in names] == pytest.approx(expected)


def test_entropy_lowers_the_loss_and_is_aggregated_as_the_policy_is() -> None:
    entropies = torch.tensor([1.0, 3.0, 2.0, 4.0], requires_grad=True)
    config = LossConfig(entropy=EntropyBonus(coef=0.1), aggregation="step_mean")
    credit = row(LENGTHS, [-1.0] * 4, [0.0] * 4)
    found = loss_of(torch.full((4,), -1.0), credit, scale_of(LENGTHS), config, entropies=entropies)
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(-0.1 * (2.0 + 2.0 + 4.0) / 3)
    assert entropies.grad is not None
    assert entropies.grad.tolist() == pytest.approx([-0.1 / 6, -0.1 / 6, -0.1 / 3, -0.1 / 3])


def test_while_the_critic_learns_alone_nothing_else_has_a_gradient() -> None:
    logprobs, entropies = torch.tensor([-1.5], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    values = torch.tensor([1.0], requires_grad=True)
    credit = row([[1]], [-1.0], [1.0], reference=[-2.0], value_targets=[0.0])
    config = LossConfig(kl=ReferenceKl(), entropy=EntropyBonus(coef=0.1))
    settings = {"entropies": entropies, "values": values, "kl": 0.1, "value": ValueTerm(0.5, None)}
    loss_of(logprobs, credit, scale_of([[1]], 1), config, policy=0.0, **settings).loss.backward()
    assert [one.grad.tolist() for one in (logprobs, entropies, values) if one.grad is not None] == [[0.0], [0.0], [0.5]]


def test_statistics_add_up_and_say_what_was_clipped() -> None:
    credit = row([[3]], [-1.0, -1.0, -1.0], [1.0, -1.0, -1.0])
    logprobs = torch.tensor([-1.0 + math.log(1.5), -1.0, -1.0 + math.log(0.6)])
    found = loss_of(logprobs, credit, scale_of([[3]]), entropies=torch.tensor([0.5, 0.7, 0.3]))
    summary = LossStats.total([found.stats, found.stats]).summary()
    assert summary["ratio_mean"] == pytest.approx((1.5 + 1.0 + 0.6) / 3)
    assert summary["ratio_max"] == pytest.approx(1.5)
    assert (summary["clip_fraction_high"], summary["clip_fraction_low"]) == pytest.approx((1 / 3, 1 / 3))
    assert summary["clip_fraction"] == pytest.approx(2 / 3)
    assert summary["entropy"] == pytest.approx(0.5)
    assert summary["policy_loss"] == pytest.approx(2 * -(1.28 - 1.0 - 0.8) / 3)
    # k3 of the old policy's samples: exp(l − o) − (l − o) − 1.
    expected = ((1.5 - math.log(1.5) - 1.0) + (0.6 - math.log(0.6) - 1.0)) / 3
    assert summary["old_kl"] == pytest.approx(expected)
    assert summary["behaviour_kl"] == pytest.approx(expected)
    assert "explained_variance" not in summary
    assert "reference_k1" not in summary


def test_explained_variance_is_of_the_whole_batch_and_not_the_mean_of_the_rows() -> None:
    """Targets 0, 2 | 4, 6 and values 1, 1 | 5, 5: Var(target) = 5, Var(target − V) = 1."""
    rows = [
        loss_of(
            torch.empty(0),
            row([], [], [], value_targets=targets),
            BatchScale(1, 1, 1, 4),
            values=torch.tensor(values),
            value=ValueTerm(0.5, None),
        )
        for targets, values in (([0.0, 2.0], [1.0, 1.0]), ([4.0, 6.0], [5.0, 5.0]))
    ]
    total = LossStats.total([one.stats for one in rows])
    assert total.summary()["explained_variance"] == pytest.approx(0.8)
    assert replace(total, target_square_sum=36.0).summary()["explained_variance"] == 0.0


def test_cispo_learns_from_a_token_that_ppo_would_leave_out() -> None:
    logprobs = torch.tensor([-1.0 + math.log(1.5)], requires_grad=True)
    credit = row([[1]], [-1.0], [1.0])
    loss_of(logprobs, credit, scale_of([[1]])).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0]
    again = logprobs.detach().requires_grad_()
    loss_of(again, credit, scale_of([[1]]), LossConfig(surrogate=CispoConfig(clip_high=0.28))).loss.backward()
    assert again.grad is not None
    assert again.grad.tolist() == pytest.approx([-1.28])
