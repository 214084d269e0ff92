"""One real DeepSpeed rank in this process: what an update, a warm start and a checkpoint do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.config import LossConfig, OptimiserConfig, ReferenceKl, SftConfig, ValueHeadConfig
from learner.credit import StateAt
from learner.errors import NonFinite
from learner.minibatches import split_groups
from learner.packing import Demonstration
from learner.rank import LearnerRank
from tests.learner.batches import (
    actions_of,
    batch,
    demonstrations,
    save_tiny_model,
    settings,
    spread,
    with_behaviour,
)
from tests.learner.builders import credited, scored, step

pytestmark = [
    pytest.mark.timeout(240),
    # DeepSpeed still gathers under the name that torch 2.13 retires.
    pytest.mark.filterwarnings("ignore:`torch.distributed.all_gather_into_tensor` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_scatter_tensor` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model, and a process group that is taken down again: no later test may find itself in a gang."""
    before = dict(os.environ)
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]), LOCAL_SIZE="1")
    yield directory
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def rank(path: str, critic: ValueHeadConfig | None = None, **changes: Any) -> LearnerRank:
    return LearnerRank(settings(path, **changes), critic, 0, 1)


def test_ratios_are_exactly_one_on_the_first_pass_and_not_on_the_second(path: str) -> None:
    """steptool.md §1 defect 3. Behaviour log-probabilities come from the same weights in float32."""
    learner = rank(path)
    numbers = learner.log_probs(actions_of(batch()))
    on_policy = with_behaviour(batch(), [numbers[i] for i in range(len(batch()))])
    first, second = learner.update(on_policy).summary(), learner.update(on_policy).summary()
    assert first["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert first["clip_fraction"] == 0.0
    assert abs(second["ratio_max"] - 1.0) > 1e-3


def test_an_update_raises_what_was_good_and_lowers_what_was_bad(path: str) -> None:
    good, bad = step((1, 2, 3), (4, 5), -4.16), step((1, 2, 3), (6, 7), -4.16)
    probes = [Demonstration((1, 2, 3, *s.action_ids), (False, False, False, True, True)) for s in (good, bad)]
    learner = rank(path)
    before = learner.log_probs(probes)
    assert learner.update([credited([1.0], [good], id="g"), credited([-1.0], [bad], id="b")]).optimiser_steps == 1
    after = learner.log_probs(probes)
    assert sum(after[0]) > sum(before[0])
    assert sum(after[1]) < sum(before[1])


def test_entropy_of_an_ignorant_model_is_that_of_its_vocabulary(path: str) -> None:
    assert rank(path).update(batch()).summary()["entropy"] == pytest.approx(4.158, abs=0.02)


def test_a_batch_without_credit_changes_nothing_and_says_so(path: str) -> None:
    learner = rank(path)
    before = learner.full_parameters()
    report = learner.update([credited([0.0, None], [step((1, 2), (3,)), step((4,), (5,))])])
    after = learner.full_parameters()
    assert (report.optimiser_steps, report.computed_tokens) == (0, 0)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_shared_tokens_are_computed_once(path: str) -> None:
    report = rank(path).update(batch())
    # Six trajectories of 27 tokens; each group stores its prompt of 12 once.
    assert report.batch_tokens == 6 * 27
    # The last step of one trajectory in each group abstained: its 9 tokens are not computed.
    assert report.computed_tokens == 6 * 27 - 4 * 12 - 2 * 9


def test_a_second_pass_takes_a_second_step(path: str) -> None:
    once, twice = rank(path), rank(path, passes=2)
    for _ in range(2):
        once.update(batch())
    assert twice.update(batch()).optimiser_steps == 2
    expected, found = once.full_parameters(), twice.full_parameters()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=0.0)


def test_each_minibatch_takes_a_step_of_its_own(path: str) -> None:
    """The two halves hold as many tokens, so that each is the batch that a learner with one minibatch would see."""
    halves = split_groups(batch(), 2)
    apart, together = rank(path), rank(path, minibatches=2)
    for half in halves:
        apart.update(half)
    report = together.update(batch())
    assert report.optimiser_steps == 2
    assert [len(half) for half in halves] == [3, 3]
    expected, found = apart.full_parameters(), together.full_parameters()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=0.0)


def test_a_minibatch_without_credit_takes_no_step(path: str) -> None:
    silent = [credited([0.0], [step((1, 2), (3,))], id="s", group="silent")]
    assert rank(path, minibatches=3).update([*batch(), *silent]).optimiser_steps == 2


def test_the_rate_warms_up(path: str) -> None:
    learner = rank(path, optimiser=OptimiserConfig(lr=1e-3, warmup_steps=4))
    rates = [learner.update(batch()).lr for _ in range(5)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_a_loss_that_overflows_stops_before_the_weights_change(path: str) -> None:
    learner = rank(path, loss=LossConfig(importance_cap=1e30))
    before = learner.full_parameters()
    absurd = [credited([-1.0], [step((1, 2), (3,), logprob=-1e9)])]
    with pytest.raises(NonFinite, match="the weights are as they were"):
        learner.update([*absurd, credited([3e38], [step((1, 2), (4,), logprob=-80.0)], id="t-1")])
    after = learner.full_parameters()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_imitation_learns_its_demonstrations(path: str) -> None:
    learner = rank(path)
    losses = [learner.sft_step(demonstrations()).loss for _ in range(12)]
    assert losses[0] == pytest.approx(4.16, abs=0.1)
    assert losses[-1] < 0.6 * losses[0]


def test_reinforcement_begins_with_fresh_moments(path: str) -> None:
    """Without it the first update would still move along the warm start's momentum."""
    fresh = rank(path)
    fresh.update(batch())
    learner = rank(path, sft=SftConfig(lr=1e-9))
    learner.sft_step(demonstrations())
    learner.begin_reinforcement()
    learner.update(batch())
    found = learner.full_parameters()
    for name, tensor in fresh.full_parameters().items():
        # Adam's first step is the sign of the gradient: where that is near zero, the warm start's 1e-9 may turn it.
        assert float((found[name] - tensor).abs().mean()) < 1e-6, name


def test_the_value_head_learns_the_returns(path: str) -> None:
    learner = rank(path, ValueHeadConfig(lr=1e-2))
    trajectories = [one.scored.trajectory for one in batch()]
    before = learner.values(trajectories)
    losses = [learner.update(batch()).stats.value_loss for _ in range(15)]
    assert {index: len(numbers) for index, numbers in before.items()} == dict.fromkeys(range(6), 2)
    assert {value for numbers in before.values() for value in numbers} == {0.0}
    # Every return is ½, so the untrained head's loss is ½ · (½)², weighted by ½.
    assert losses[0] == pytest.approx(0.0625)
    assert losses[-1] < 0.2 * losses[0]


def test_the_value_head_learns_a_target_before_every_action_token(path: str) -> None:
    learner = rank(path, ValueHeadConfig(lr=1e-2))
    trajectories = [one.scored.trajectory for one in batch()]
    losses = [learner.update(spread(batch())).stats.value_loss for _ in range(15)]
    at_tokens, at_steps = learner.values(trajectories, StateAt.TOKENS), learner.values(trajectories)
    # Actions of 6 and 4 tokens; the state before the first token of a step is the state before the step.
    assert {index: len(numbers) for index, numbers in at_tokens.items()} == dict.fromkeys(range(6), 10)
    for index, numbers in at_steps.items():
        assert (at_tokens[index][0], at_tokens[index][6]) == pytest.approx(numbers, abs=1e-6)
    # Every target is ½, however many of them there are.
    assert losses[0] == pytest.approx(0.0625)
    assert losses[-1] < 0.5 * losses[0]


def test_a_trajectory_without_a_step_has_no_value(path: str) -> None:
    lost = scored([], steps=[]).trajectory
    learner = rank(path, ValueHeadConfig())
    assert learner.values([lost]) == {}
    assert {index: len(found) for index, found in learner.values([lost, batch()[0].scored.trajectory]).items()} == {
        1: 2
    }


def test_tokens_that_share_a_steps_advantage_make_the_update_of_that_step(path: str) -> None:
    """Credit by token with equal numbers is credit by step."""
    whole, split = rank(path), rank(path)
    found = split.update(spread(batch())).stats, split.full_parameters()
    wanted = whole.update(batch()).stats, whole.full_parameters()
    assert found[0].loss == pytest.approx(wanted[0].loss, abs=1e-7)
    assert all(torch.equal(found[1][name], wanted[1][name]) for name in wanted[1])


def test_kl_to_the_reference_starts_at_zero_and_grows(path: str) -> None:
    learner = rank(path, loss=LossConfig(kl=ReferenceKl(coef=0.1)))
    learner.sft_step(demonstrations())
    learner.begin_reinforcement()
    first, second = learner.update(batch()).summary(), learner.update(batch()).summary()
    assert first["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["reference_kl"] > 1e-5


def test_an_update_against_a_reference_that_was_never_frozen_is_refused(path: str) -> None:
    with pytest.raises(RuntimeError, match="call begin_reinforcement"):
        rank(path, loss=LossConfig(kl=ReferenceKl())).update(batch())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_keeps_float32_masters(path: str, stage: int) -> None:
    """Steps below bfloat16's resolution add up: without masters the same few weights would move each time."""
    learner = rank(path, dtype="bfloat16", zero_stage=stage, optimiser=OptimiserConfig(lr=2e-6))
    name = "model.layers.0.mlp.up_proj.weight"
    before = learner.full_parameters()[name]
    moved: list[int] = []
    for _ in range(12):
        learner.update(batch())
        moved.append(int((learner.full_parameters()[name] != before).sum()))
    assert before.dtype == torch.bfloat16
    assert moved[-1] > 3 * moved[0] > 0


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")])
def test_a_checkpoint_continues_exactly(path: str, tmp_path: Path, stage: int, dtype: str) -> None:
    changes: dict[str, Any] = {"zero_stage": stage, "dtype": dtype}
    learner = rank(path, ValueHeadConfig(), **changes)
    learner.update(batch())
    learner.save(str(tmp_path))
    saved = learner.full_parameters()
    straight, expected = learner.update(batch()), learner.full_parameters()
    again = rank(path, ValueHeadConfig(), **changes)
    again.load(str(tmp_path))
    assert again.update(batch()).stats.loss == pytest.approx(straight.stats.loss, abs=1e-7)
    found = again.full_parameters()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=saved["model.norm.weight"].dtype)
    assert all(torch.equal(exported.state_dict()[name], saved[name]) for name in saved)


def test_a_checkpoint_of_more_ranks_is_refused(path: str, tmp_path: Path) -> None:
    learner = rank(path)
    learner.save(str(tmp_path))
    (tmp_path / "learner.json").write_text('{"updates": 3, "ranks": 2}')
    with pytest.raises(ValueError, match="written by 2 ranks, found 1"):
        learner.load(str(tmp_path))
