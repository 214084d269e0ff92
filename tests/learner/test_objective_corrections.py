"""Importance weights between the engine's probabilities and the learner's, by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch

from learner.objective.config import (
    CorrectionConfig,
    IcePopConfig,
    LossConfig,
    MaskedConfig,
    NoCorrection,
    PpoClipConfig,
    TruncatedConfig,
)
from learner.objective.ratios import importance_weights
from tests.learner.rows import loss_of, row, scale_of

LENGTHS = [[2, 1], [1]]
WEIGHTS = [1.5, 2.0, 0.4, 6.0]
"""Of the four tokens: the two steps of the first trajectory weigh 3 and 0.4, the whole of it 1.2, the second 6."""
CREDIT = row(LENGTHS, [-1.0] * 4, [1.0] * 4, old=[-1.0 + math.log(w) for w in WEIGHTS])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (NoCorrection(), [1.0, 1.0, 1.0, 1.0]),
        (TruncatedConfig(cap=2.5), [1.5, 2.0, 0.4, 2.5]),
        (TruncatedConfig(cap=2.5, level="step"), [2.5, 2.5, 0.4, 2.5]),
        (TruncatedConfig(cap=2.5, level="trajectory"), [1.2, 1.2, 1.2, 2.5]),
        (MaskedConfig(cap=1.8), [1.5, 0.0, 0.4, 0.0]),
        (MaskedConfig(cap=2.5, level="step"), [0.0, 0.0, 0.4, 0.0]),
        (MaskedConfig(cap=2.5, level="trajectory"), [1.2, 1.2, 1.2, 0.0]),
        (IcePopConfig(low=0.5, high=5.0), [1.5, 2.0, 0.0, 0.0]),
        (IcePopConfig(low=0.5, high=5.0, level="step"), [3.0, 3.0, 0.0, 0.0]),
        (IcePopConfig(low=0.5, high=5.0, level="trajectory"), [1.2, 1.2, 1.2, 0.0]),
    ],
    ids=lambda one: f"{one.kind}-{getattr(one, 'level', '')}" if hasattr(one, "kind") else "",
)
def test_a_weight_is_that_of_the_tokens_unit(config: CorrectionConfig, expected: list[float]) -> None:
    assert importance_weights(CREDIT, config).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_ratio_compares_with_the_old_policy_and_the_weight_with_the_engine() -> None:
    """Decoupled PPO: w·min(ρÂ, …) with ρ = π/π_old = 1.1 and w = π_old/π_behaviour = 1.5."""
    credit = row([[1]], [-1.0], [2.0], old=[-1.0 + math.log(1.5)])
    logprobs = torch.tensor([-1.0 + math.log(1.65)], requires_grad=True)
    config = LossConfig(correction=TruncatedConfig(cap=2.0))
    found = loss_of(logprobs, credit, scale_of([[1]]), config)
    found.loss.backward()
    assert found.stats.loss == pytest.approx(-1.5 * 1.1 * 2.0)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-3.3])


def test_without_a_correction_the_ratio_compares_with_the_engine() -> None:
    """steptool.md §1 defect 3: the published code recomputes "old" log-probabilities, so its ratio is always one."""
    logprobs = torch.tensor([math.log(0.3)])
    assert float(loss_of(logprobs, row([[1]], [math.log(0.25)], [1.0]), scale_of([[1]])).loss) == pytest.approx(-1.2)


def test_a_masked_token_has_no_gradient_keeps_its_place_in_the_mean_and_is_counted() -> None:
    credit = row([[2]], [-1.0, -1.0], [1.0, 1.0], old=[-1.0, -1.0 + math.log(3.0)])
    logprobs = torch.tensor([-1.0, -1.0 + math.log(3.0)], requires_grad=True)
    config = LossConfig(surrogate=PpoClipConfig(), correction=MaskedConfig(cap=2.0))
    found = loss_of(logprobs, credit, scale_of([[2]]), config)
    found.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.0])
    summary = found.stats.summary()
    assert summary["masked_fraction"] == 0.5
    assert summary["weight_mean"] == pytest.approx(0.5)
    assert summary["weight_max"] == pytest.approx(1.0)


def test_a_step_that_the_engine_would_never_have_taken_overflows_into_no_number_that_counts() -> None:
    credit = row([[2]], [-500.0, -500.0], [1.0, 1.0], old=[-1.0, -1.0])
    assert importance_weights(credit, TruncatedConfig(cap=2.0, level="step")).tolist() == [2.0, 2.0]
    assert importance_weights(credit, MaskedConfig(cap=2.0, level="step")).tolist() == [0.0, 0.0]
    assert importance_weights(credit, IcePopConfig(level="step")).tolist() == [0.0, 0.0]
