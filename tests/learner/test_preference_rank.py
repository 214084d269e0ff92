"""Learning from preferences on real DeepSpeed ranks: the gradient is that of the loss, however the batch is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.config import LearnerConfig, OptimiserConfig
from learner.credit import assign_credit
from learner.engine import StepTaken
from learner.group import LearnerGroup
from learner.objective.stats import LossStats
from learner.preference_rank import PreferenceRank
from learner.saving import PendingSave
from tests.learner.batches import save_tiny_model, settings
from tests.learner.builders import scored
from tests.learner.gang import run_gang
from tests.learner.preferences import ETO, PAIRS, compared, plain_loss

pytestmark = [
    pytest.mark.timeout(300),
    # DeepSpeed still gathers under the name that torch 2.13 retires.
    pytest.mark.filterwarnings("ignore:`torch.distributed.all_gather_into_tensor` is deprecated:FutureWarning"),
]

FAST = OptimiserConfig(lr=1e-2, max_grad_norm=1e3)
"""Two steps take the margins far from zero, and no gradient is clipped."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


class Watched(PreferenceRank):
    """Keeps the gradient of every optimiser step."""

    def __init__(self, config: LearnerConfig) -> None:
        super().__init__(config, ETO, 0, 1)
        self.gradients: list[torch.Tensor] = []

    def _reinforcement_step(self) -> tuple[float, StepTaken]:
        grads = [one.grad for one in self._policy.model.parameters() if one.grad is not None]
        self.gradients.append(torch.cat([grad.flatten() for grad in grads]))
        return super()._reinforcement_step()


def rank(path: str, **changes: Any) -> Watched:
    learner = Watched(settings(path, **{"optimiser": FAST, **changes}))
    learner.begin_reinforcement()
    return learner


@pytest.mark.parametrize("pack_tokens", [20, 60, 1000])
def test_gradient_and_loss_are_those_of_the_preference_loss_however_rows_are_cut(
    path: str, alone: None, pack_tokens: int
) -> None:
    learner = rank(path, pack_tokens=pack_tokens)
    reference = learner.full_parameters()
    for step in range(3):
        loss, gradient = plain_loss(learner.full_parameters(), reference, path)
        report = learner.update(compared())
        assert report.stats.loss == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(
            learner.gradients[step], gradient, atol=2e-6 * float(gradient.abs().max()), rtol=1e-4
        )
    assert learner.update(compared()).stats.loss < 0.5 * math.log(2)


def test_the_first_update_starts_from_a_margin_of_zero(path: str, alone: None) -> None:
    """Policy and reference are the same: every pair costs log 2, and none is in order yet."""
    learner = rank(path)
    first, second = learner.update(compared()).summary(), learner.update(compared()).summary()
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["preference_pairs"], first["preference_margin"]) == (len(PAIRS), pytest.approx(0.0, abs=1e-5))
    assert (second["preference_accuracy"], first["reference_k3"]) == (1.0, pytest.approx(0.0, abs=1e-9))
    assert second["preference_margin"] > 0.1


def test_margins_are_read_anew_before_each_step(path: str, alone: None) -> None:
    """The second of two passes sees what the first one did, as a second update would."""
    once, twice = rank(path), rank(path, passes=2)
    once.update(compared())
    again, both = once.update(compared()), twice.update(compared())
    assert (both.passes, both.optimiser_steps) == (2, 2)
    assert both.stats.loss == again.stats.loss < math.log(2)
    assert torch.equal(once.gradients[1], twice.gradients[1])


def test_minibatches_of_a_pass_add_up_to_the_gradient_of_the_whole_batch(path: str, alone: None) -> None:
    """Where the rate is too small to move anything: each step's share is scaled up by their number."""
    still = OptimiserConfig(lr=1e-12)
    whole, cut = rank(path, optimiser=still), rank(path, optimiser=still, minibatches=2)
    expected, found = whole.update(compared()), cut.update(compared())
    assert (expected.optimiser_steps, found.optimiser_steps) == (1, 2)
    assert found.stats.loss == pytest.approx(expected.stats.loss)
    torch.testing.assert_close(cut.gradients[0] + cut.gradients[1], 2 * whole.gradients[0], atol=1e-6, rtol=1e-4)


def test_an_update_with_an_episode_that_never_began_is_the_one_without_it(path: str, alone: None) -> None:
    """Records have no row of it, so a replay learns without: it must not be a minibatch."""
    lost = assign_credit([scored([], id="lost", group="lost", solved=None, steps=[])], None, ETO)
    without, beside = rank(path, minibatches=2), rank(path, minibatches=2)
    expected, found = without.update(compared()), beside.update([*lost, *compared()])
    assert (found.optimiser_steps, found.stats) == (2, expected.stats)
    assert all(torch.equal(a, b) for a, b in zip(beside.gradients, without.gradients, strict=True))


def test_a_batch_without_a_pair_makes_no_step(path: str, alone: None) -> None:
    learner = rank(path)
    before = learner.full_parameters()
    report = learner.update(compared((1.0, 1.0, 1.0, None, 0.0, 0.0)))
    assert (report.optimiser_steps, report.skipped_steps, learner.gradients) == (0, 0, [])
    assert "preference_pairs" not in report.summary()
    after = learner.full_parameters()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_reference_survives_a_checkpoint(path: str, alone: None, tmp_path: Path) -> None:
    learner = rank(path)
    learner.update(compared())
    learner.save(str(tmp_path))
    PendingSave(lambda: [learner.saved()], 60.0).wait()
    straight = learner.update(compared())
    resumed = Watched(settings(path, optimiser=FAST))
    resumed.load(str(tmp_path))
    assert resumed.update(compared()).stats.loss == straight.stats.loss


def prefer_on(rank: int, path: str, cases: Sequence[tuple[int, int]]) -> list[Any]:
    """For each number of ranks and ZeRO stage: what a rank has to say of two updates, and the weights."""
    found: list[Any] = []
    for ranks, stage in cases:
        learner = PreferenceRank(settings(path, ranks=ranks, zero_stage=stage), ETO, rank, ranks)
        learner.begin_reinforcement()
        reports = [learner.update(compared()) for _ in range(2)]
        found.append((reports, {name: tensor.numpy() for name, tensor in learner.full_parameters().items()}))
    return found


def test_two_ranks_make_the_update_that_one_makes(path: str) -> None:
    """The trajectories of some pair lie on different ranks, and the number of ranks changes nothing."""
    names = ("loss", "preference_pairs", "preference_accuracy", "preference_margin", "entropy", "reference_k3")
    [[(wanted, weights)]] = run_gang(prefer_on, 1, path, [(1, 0)])
    first, second = run_gang(prefer_on, 2, path, [(2, 0), (2, 3)])
    for (reports, moved), (others, _) in zip(first, second, strict=True):
        for mine, other, target in zip(reports, others, wanted, strict=True):
            total, expected = LossStats.total([mine.stats, other.stats]).summary(), target.stats.summary()
            assert {n: total[n] for n in names} == pytest.approx({n: expected[n] for n in names}, rel=1e-3, abs=1e-5)
            assert mine.grad_norm == pytest.approx(target.grad_norm, rel=1e-4)
        for name, tensor in weights.items():
            np.testing.assert_allclose(moved[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_group_learns_from_preferences_where_credit_says_so(path: str, ray_local: str) -> None:
    group = LearnerGroup(settings(path, optimiser=FAST), ETO)
    try:
        group.begin_reinforcement()
        losses = [group.update(compared()).stats.loss for _ in range(2)]
    finally:
        group.shutdown()
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[1] < losses[0]
