"""Each surrogate by hand-worked numbers: values, gradients, and what its bounds act on."""

from __future__ import annotations

import math

import pytest
import torch

from learner.objective.config import CispoConfig, DualClipConfig, GspoConfig, PpoClipConfig, SurrogateConfig
from learner.objective.ratios import policy_ratio
from learner.objective.surrogates import clipped, surrogate
from tests.learner.rows import row

RATIOS = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 6.0])
ADVANTAGES = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -1.0])
LOGPROBS = torch.tensor([-1.0, -2.0, -0.5, -3.0, -1.0, -1.0])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # A gain is held at 1.28, a loss at −0.8; the other two branches are open.
        (PpoClipConfig(clip_low=0.2, clip_high=0.28), [1.28, -1.5, 0.5, -0.8, 2.2, -6.0]),
        # The same, and the open branch of the loss ends at −5.
        (DualClipConfig(clip_low=0.2, clip_high=0.28, cap=5.0), [1.28, -1.5, 0.5, -0.8, 2.2, -5.0]),
        # clip(ρ, 0, 3)·Â·log π.
        (CispoConfig(clip_low=1.0, clip_high=2.0), [-1.5, 3.0, -0.25, 1.5, -2.2, 3.0]),
        (GspoConfig(clip_low=0.2, clip_high=0.28), [1.28, -1.5, 0.5, -0.8, 2.2, -6.0]),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_a_surrogate_has_the_value_of_its_equation(config: SurrogateConfig, expected: list[float]) -> None:
    torch.testing.assert_close(surrogate(RATIOS, LOGPROBS, ADVANTAGES, config), torch.tensor(expected))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # d(ρÂ)/dl = ρÂ where no bound acts, 0 where one does.
        (PpoClipConfig(clip_low=0.2, clip_high=0.28), [0.0, -1.5, 0.5, 0.0, 2.2, -6.0]),
        (DualClipConfig(clip_low=0.2, clip_high=0.28, cap=5.0), [0.0, -1.5, 0.5, 0.0, 2.2, 0.0]),
        # CISPO leaves no token out: the weight is bounded, the gradient is weight·Â.
        (CispoConfig(clip_low=1.0, clip_high=2.0), [1.5, -1.5, 0.5, -0.5, 2.2, -3.0]),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_a_bound_takes_the_gradient_away_and_cispo_keeps_it(config: SurrogateConfig, expected: list[float]) -> None:
    logprobs = torch.zeros(6, requires_grad=True)
    credit = row([[6]], (-RATIOS.log()).tolist(), ADVANTAGES.tolist())
    surrogate(policy_ratio(logprobs, credit, config), logprobs, ADVANTAGES, config).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_bounds_are_apart() -> None:
    config = PpoClipConfig(clip_low=0.1, clip_high=0.6)
    low, high = clipped(RATIOS, ADVANTAGES, config)
    assert low.tolist() == [False, False, False, True, False, False]
    assert high.tolist() == [False, False, False, False, False, False]
    _, high = clipped(RATIOS, ADVANTAGES, PpoClipConfig(clip_low=0.1, clip_high=0.4))
    assert high.tolist() == [True, False, False, False, False, False]


def test_a_bound_of_cispo_acts_whatever_the_sign() -> None:
    low, high = clipped(RATIOS, ADVANTAGES, CispoConfig(clip_low=0.4, clip_high=0.4))
    assert low.tolist() == [False, False, True, True, False, False]
    assert high.tolist() == [True, True, False, False, False, True]


def test_the_ratio_of_a_step_is_the_product_and_gspo_takes_the_geometric_mean() -> None:
    """Two steps of two tokens and one token: ratios 1.2 · 1.5 = 1.8, and 0.5."""
    logprobs = torch.tensor([math.log(1.2), math.log(1.5), math.log(0.5)])
    credit = row([[2, 1]], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert policy_ratio(logprobs, credit, PpoClipConfig(level="step")).tolist() == pytest.approx([1.8, 1.8, 0.5])
    root = math.sqrt(1.8)
    assert policy_ratio(logprobs, credit, GspoConfig(level="step")).tolist() == pytest.approx([root, root, 0.5])
    assert policy_ratio(logprobs, credit, CispoConfig(level="trajectory")).tolist() == pytest.approx([0.9] * 3)
    cube = 0.9 ** (1 / 3)
    assert policy_ratio(logprobs, credit, GspoConfig(level="trajectory")).tolist() == pytest.approx([cube] * 3)


def test_steps_keep_their_own_advantages_under_the_ratio_of_their_trajectory() -> None:
    """GSPO of one sequence pulls every token with the mean advantage, which would undo credit by step."""
    logprobs = torch.tensor([0.0, 0.0, math.log(1.331)], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -2.0])
    config = GspoConfig(level="trajectory", clip_low=0.2, clip_high=0.2)
    ratio = policy_ratio(logprobs, row([[2, 1]], [0.0, 0.0, 0.0], advantages.tolist()), config)
    surrogate(ratio, logprobs, advantages, config).sum().backward()
    # ρ = 1.331^(1/3) = 1.1 for all three.
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([1.1, 1.1, -2.2])


@pytest.mark.parametrize("level", ["token", "step", "trajectory"])
def test_the_ratio_is_exactly_one_where_the_policy_is_the_old_one(level: str) -> None:
    numbers = [-0.1, -2.3, -17.0, -0.7, -1e-7]
    credit = row([[2], [1, 2]], numbers, [1.0] * 5)
    config = PpoClipConfig.model_validate({"level": level})
    assert policy_ratio(torch.tensor(numbers), credit, config).tolist() == [1.0] * 5
    if level != "token":
        gspo = GspoConfig.model_validate({"level": level})
        assert policy_ratio(torch.tensor(numbers), credit, gspo).tolist() == [1.0] * 5
