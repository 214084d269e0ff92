from __future__ import annotations

import math

import pytest
import torch

from learner.credit.pairs import Pair, preference_pairs
from learner.preference import preference_loss
from tests.learner.builders import scored
from tool_sandbox.tasks import StopReason


def test_each_worse_trajectory_is_paired_with_one_of_the_best_in_turn() -> None:
    solved = [1.0, 0.0, 1.0, 0.5, 0.0]
    batch = [scored([0.1], id=str(i), solved=outcome) for i, outcome in enumerate(solved)]
    assert preference_pairs(batch) == [Pair(0, 1), Pair(2, 3), Pair(0, 4)]


def test_pairs_stay_within_a_group_and_a_uniform_group_has_none() -> None:
    batch = [
        scored([0.1], id="a", group="g", solved=1.0),
        scored([0.1], id="b", group="h", solved=0.0),
        scored([0.1], id="c", group="h", solved=0.0),
    ]
    assert preference_pairs(batch) == []


def test_an_episode_without_a_known_outcome_is_in_no_pair() -> None:
    lost = scored([None], id="lost", solved=None, stop=StopReason.INFRASTRUCTURE)
    assert preference_pairs([lost, scored([1.0], id="a"), scored([0.0], id="b", solved=0.0)]) == [Pair(1, 2)]


def test_the_preference_loss_by_hand() -> None:
    # Margins (−1 + 2) − (−4 + 3) = 2 and (−2 + 2) − (−2 + 2) = 0; β = ½: −(log σ(1) + log σ(0)) / 2.
    chosen, rejected = torch.tensor([-1.0, -2.0]), torch.tensor([-4.0, -2.0])
    before_chosen, before_rejected = torch.tensor([-2.0, -2.0]), torch.tensor([-3.0, -2.0])
    found = preference_loss(chosen, rejected, before_chosen, before_rejected, 0.5)
    assert float(found) == pytest.approx((math.log(1 + math.exp(-1.0)) + math.log(2.0)) / 2)


def test_the_preference_loss_raises_the_chosen_and_lowers_the_rejected() -> None:
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss = preference_loss(chosen, rejected, torch.zeros(1), torch.zeros(1), 0.1)
    # At a margin of 0 the slope is β · σ(0).
    slopes = [float(slope) for slope in torch.autograd.grad(loss, [chosen, rejected])]
    assert slopes == pytest.approx([-0.05, 0.05])
