"""One real DeepSpeed rank in this process: what an update, a warm start and a checkpoint do."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any, Literal

import blake3
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoModelForCausalLM

from learner.config import CosineSchedule, OptimiserConfig, SftConfig, ValueHeadConfig
from learner.credit import StateAt
from learner.engine_state import KINDS
from learner.errors import BadCheckpoint, NonFinite
from learner.minibatches import split_groups
from learner.objective.config import (
    AdaptiveControl,
    DualClipConfig,
    EntropyBonus,
    LossConfig,
    ReferenceKl,
    TruncatedConfig,
)
from learner.packing import Demonstration
from learner.rank import LearnerRank
from learner.reports import UpdateReport
from learner.saving import PendingSave, write_snapshot
from learner.shards import Shards
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


LAYOUTS = [
    (0, "float32", "none"),
    (0, "bfloat16", "none"),
    (1, "bfloat16", "none"),
    (1, "bfloat16", "optimiser"),
    (2, "float32", "none"),
    (2, "float32", "optimiser"),
    (3, "bfloat16", "none"),
    (3, "bfloat16", "optimiser_and_parameters"),
]
"""ZeRO stage, precision and what is offloaded."""

SEPARATE = ValueHeadConfig(backbone="separate", lr=1e-2, backbone_lr=1e-3)

BATCH_GRAD_NORM = 1.668
"""Of the first update on `batch`, in float32."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, alone: None) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


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


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_corrected_ratio_starts_at_exactly_one_whatever_the_engine_said(path: str, minibatches: int) -> None:
    """The behaviour of the batch is not that of the weights: a weight corrects for it, not the ratio."""
    loss = LossConfig(correction=TruncatedConfig(cap=1.05))
    learner = rank(path, loss=loss, minibatches=minibatches, optimiser=OptimiserConfig(lr=1e-12))
    summary = learner.update(batch()).summary()
    assert (summary["ratio_mean"], summary["ratio_max"], summary["old_kl"]) == (1.0, 1.0, 0.0)
    assert summary["weight_max"] == pytest.approx(1.05)
    assert summary["behaviour_kl"] > 1e-4


def test_a_corrected_ratio_compares_with_the_policy_before_the_first_pass(path: str) -> None:
    learner = rank(path, passes=2, loss=LossConfig(correction=TruncatedConfig()))
    assert abs(learner.update(batch()).stats.ratio_max - 1.0) > 1e-3


def test_no_further_pass_is_made_once_the_policy_has_moved(path: str) -> None:
    numbers = rank(path).log_probs(actions_of(batch()))
    on_policy = with_behaviour(batch(), [numbers[i] for i in range(len(batch()))])
    near, far = rank(path, passes=4, stop_kl=1e9), rank(path, passes=4, stop_kl=1e-7)
    assert (near.update(on_policy).passes, near.update(on_policy).optimiser_steps) == (4, 4)
    # The first pass measures nothing but the weights that sampled; the second sees what the first step did.
    report = far.update(on_policy)
    assert (report.passes, report.optimiser_steps) == (2, 2)
    assert report.summary()["old_kl"] > 1e-7


@pytest.mark.parametrize(("stage", "dtype", "offload"), LAYOUTS)
def test_a_step_with_too_large_a_gradient_is_left_out_and_counted(
    path: str, stage: int, dtype: str, offload: str
) -> None:
    """The first step already: neither weights nor moments change, and the next step is as if nothing had been."""
    changes: dict[str, Any] = {"zero_stage": stage, "dtype": dtype, "offload": {"kind": offload}}
    norm = BATCH_GRAD_NORM
    guard = OptimiserConfig(lr=1e-3, max_grad_norm=norm / 4, skip_grad_norm=norm / 2)
    learner = rank(path, passes=2, optimiser=guard, **changes)
    before = learner.full_parameters()
    report = learner.update(batch())
    after = learner.full_parameters()
    assert (report.optimiser_steps, report.skipped_steps) == (0, 2)
    assert report.grad_norm == pytest.approx(norm, rel=0.05)
    assert all(torch.equal(before[name], after[name]) for name in before)
    unguarded = rank(path, passes=2, optimiser=OptimiserConfig(lr=1e-3, max_grad_norm=norm / 4), **changes)
    faint = [replace(one, advantages=tuple(a and 0.1 * a for a in one.advantages)) for one in batch()]
    assert learner.update(faint).optimiser_steps == 2
    unguarded.update(faint)
    found, expected = learner.full_parameters(), unguarded.full_parameters()
    assert all(torch.equal(found[name], expected[name]) for name in found)


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


def test_a_cosine_ends_at_its_final_rate(path: str) -> None:
    cosine = OptimiserConfig(lr=1e-3, schedule=CosineSchedule(steps=2, final=0.5))
    learner = rank(path, ValueHeadConfig(lr=1e-2), optimiser=cosine)
    assert [learner.update(batch()).lr for _ in range(4)] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.5e-3])


@pytest.mark.parametrize(
    ("backbone", "dtype", "stage"), [("detached", "float32", 0), ("shared", "bfloat16", 2), ("separate", "float32", 3)]
)
def test_the_critic_learns_alone_during_its_warm_up(path: str, backbone: Any, dtype: str, stage: int) -> None:
    critic = ValueHeadConfig(lr=1e-2, backbone=backbone, warmup_steps=2)
    learner = rank(path, critic, dtype=dtype, zero_stage=stage, optimiser=OptimiserConfig(lr=1e-3, weight_decay=0.1))
    before = learner.full_parameters()
    reports = [learner.update(batch()) for _ in range(2)]
    warm = learner.full_parameters()
    assert all(torch.equal(before[name], warm[name]) for name in before)
    assert [report.lr for report in reports] == [0.0, 0.0]
    third = learner.update(batch())
    assert third.lr == 1e-3
    assert third.stats.value_loss < reports[0].stats.value_loss
    assert third.stats.policy_loss != 0.0
    after = learner.full_parameters()
    assert any(not torch.equal(warm[name], after[name]) for name in warm)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "bfloat16"), (3, "bfloat16")])
def test_a_separate_critic_begins_with_the_layers_of_the_warm_start_and_goes_its_own_way(
    path: str, tmp_path: Path, stage: int, dtype: str
) -> None:
    learner = rank(path, SEPARATE, zero_stage=stage, dtype=dtype, optimiser=OptimiserConfig(weight_decay=0.1))
    names = set(learner.full_parameters())

    def masters(turn: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All of the policy's body and all of the critic's, as a checkpoint has them."""
        save(learner, tmp_path / turn)
        state = {name: tensor for (kind, name), tensor in state_of(tmp_path / turn).items() if kind == "master"}
        mine = sorted(name for name in state if name.startswith("critic_body."))
        its = [name.replace("critic_body.", "model.model.") for name in mine]
        return torch.cat([state[name] for name in its]), torch.cat([state[name] for name in mine])

    _, initial = masters("start")
    learner.sft_step(demonstrations())
    policy, critic = masters("warm")
    assert torch.equal(critic, initial)
    learner.begin_reinforcement()
    _, begun = masters("begun")
    assert torch.equal(begun, policy.to(getattr(torch, dtype)).float())
    for _ in range(2):
        learner.update(batch())
    _, trained = masters("trained")
    # The read-out starts at zero, so the body has its first gradient in the second step: moments of 0.1·g and 0.05·g²,
    # divided by 0.19 and 0.0975, are a step of 0.735 times the rate. The norms, which are 1, decay by 1e-4 a step.
    assert float((trained - begun).abs().max()) == pytest.approx(0.735e-3 + 2e-4, rel=0.03)
    assert names == set(learner.full_parameters())
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "trained" / "model", output_loading_info=True)
    assert not loaded[1]["unexpected_keys"]


@pytest.mark.parametrize("stage", [0, 3])
def test_recomputed_activations_make_the_same_update(path: str, stage: int) -> None:
    passes: list[int] = []
    weights: list[dict[str, torch.Tensor]] = []
    for kind in ("keep", "recompute"):
        learner = rank(path, zero_stage=stage, activations={"kind": kind})
        ran: list[Any] = []
        hook = register_module_forward_pre_hook(lambda module, *_, ran=ran: ran.append(type(module).__name__))
        learner.update(batch())
        hook.remove()
        passes.append(ran.count("LlamaDecoderLayer"))
        weights.append(learner.full_parameters())
    assert passes[1] == 2 * passes[0] > 0
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_a_clipped_critic_is_judged_against_the_values_before_the_update(path: str) -> None:
    """Every return is ½ and V starts at 0: a band of 0.1 leaves ½·(0.4)² at least, however far V moves."""
    learner = rank(path, ValueHeadConfig(lr=5e-2, clip=0.1, coef=1.0), passes=12)
    assert learner.update(batch()).stats.value_loss == pytest.approx(0.5 * 0.4**2, rel=1e-3)
    free = rank(path, ValueHeadConfig(lr=5e-2, coef=1.0), passes=12)
    report = free.update(batch())
    assert report.stats.value_loss < 0.5 * 0.4**2
    assert report.summary()["explained_variance"] == 0.0


def test_an_entropy_bonus_keeps_the_policy_broad(path: str) -> None:
    narrow, broad = rank(path), rank(path, loss=LossConfig(entropy=EntropyBonus(coef=5.0)))
    entropies: list[list[float]] = []
    for learner in (narrow, broad):
        for _ in range(12):
            learner.sft_step(demonstrations())
        learner.begin_reinforcement()
        entropies.append([learner.update(batch()).summary()["entropy"] for _ in range(5)])
    assert entropies[0][0] == pytest.approx(entropies[1][0])
    assert entropies[1][-1] > entropies[1][0] + 0.01
    assert entropies[1][-1] > entropies[0][-1] + 0.01


def test_a_loss_that_overflows_stops_before_the_weights_change(path: str) -> None:
    learner = rank(path, loss=LossConfig(surrogate=DualClipConfig(cap=1e30)))
    before = learner.full_parameters()
    absurd = [credited([-1.0], [step((1, 2), (3,), logprob=-1e9)])]
    with pytest.raises(NonFinite, match=r"trajectories \['t-0', 't-1'\].*the step was not made, those before it stand"):
        learner.update([*absurd, credited([3e38], [step((1, 2), (4,), logprob=-80.0)], id="t-1")])
    after = learner.full_parameters()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("stage", "dtype", "offload"), LAYOUTS)
def test_a_gradient_that_overflows_under_a_finite_loss_changes_nothing(
    path: str, stage: int, dtype: str, offload: str
) -> None:
    learner = rank(path, zero_stage=stage, dtype=dtype, offload={"kind": offload})
    before = learner.full_parameters()
    huge = [credited([1e38, -1e38], [step((1, 2), (3, 4), -4.16), step((5,), (6,), -4.16)])]
    with pytest.raises(NonFinite, match=r"gradient norm (inf|nan).*the step was not made, those before it stand"):
        learner.update(huge)
    after = learner.full_parameters()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_steps_on_minibatches_before_the_one_that_overflows_stand(path: str) -> None:
    learner, without = rank(path, minibatches=2), rank(path, minibatches=2)
    good, huge = batch()[:3], [credited([1e38], [step((1, 2), (3, 4), -4.16)], id="huge", group="huge")]
    silent = [credited([0.0], [step((1, 2), (3, 4), -4.16)], id="huge", group="huge")]
    with pytest.raises(NonFinite, match="the step was not made, those before it stand"):
        learner.update([*good, *huge])
    # As many tokens: the first minibatch has the same share of the loss.
    assert without.update([*good, *silent]).optimiser_steps == 1
    found, expected = learner.full_parameters(), without.full_parameters()
    assert all(torch.equal(found[name], expected[name]) for name in found)


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
    assert first["reference_k3"] == pytest.approx(0.0, abs=1e-6)
    assert second["reference_k3"] > 1e-5


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_an_adaptive_coefficient_follows_the_kl_and_survives_a_checkpoint(
    path: str, tmp_path: Path, place: Literal["loss", "reward"]
) -> None:
    kl = ReferenceKl(coef=0.5, place=place, control=AdaptiveControl(target=1e-9, horizon=60))
    trajectories = [one.scored.trajectory for one in batch()]

    def turn(learner: LearnerRank) -> UpdateReport:
        if place == "reward":
            learner.step_penalties(trajectories)
        return learner.update(batch())

    learner = rank(path, loss=LossConfig(kl=kl))
    learner.begin_reinforcement()
    coefficients = [turn(learner).kl_coef for _ in range(3)]
    # Where the KL is in the loss it is zero at first, and far above its target once the policy has moved; the engine's
    # log-probabilities in the reward are far from the reference at once. Six trajectories of 60: a factor of 1 ± 0.02.
    first = 0.98 if place == "loss" else 1.02
    assert coefficients == pytest.approx([0.5, 0.5 * first, 0.5 * first * 1.02])
    save(learner, tmp_path)
    again = rank(path, loss=LossConfig(kl=kl))
    again.load(str(tmp_path))
    assert turn(again).kl_coef == turn(learner).kl_coef == pytest.approx(0.5 * first * 1.02**2)


def test_the_penalty_of_a_step_is_the_kl_of_its_tokens_and_the_update_reports_it(path: str) -> None:
    learner = rank(path, loss=LossConfig(kl=ReferenceKl(coef=0.1, estimator="k1", place="reward")))
    learner.begin_reinforcement()
    now = learner.log_probs(actions_of(batch()))
    found = learner.step_penalties([one.scored.trajectory for one in batch()])
    for index, numbers in now.items():
        # Behaviour −4.16 a token; six tokens in the first step, four in the second.
        expected = [0.1 * sum(-4.16 - n for n in part) for part in (numbers[:6], numbers[6:])]
        assert found[index] == pytest.approx(expected, abs=1e-5)
    tokens = [n for numbers in now.values() for n in numbers]
    report = learner.update(batch())
    assert report.summary()["reference_k1"] == pytest.approx(sum(-4.16 - n for n in tokens) / len(tokens), abs=1e-5)
    assert report.stats.kl_loss == 0.0


def test_an_episode_that_never_began_has_no_penalty_and_changes_nobody_elses(path: str) -> None:
    """With rows so short that it would have one to itself."""
    learner = rank(path, pack_tokens=20, loss=LossConfig(kl=ReferenceKl(coef=0.1, place="reward")))
    learner.begin_reinforcement()
    played, lost = [one.scored.trajectory for one in batch()], scored([], steps=[]).trajectory
    alone = learner.step_penalties(played)
    found = learner.step_penalties([lost, *played, lost])
    assert found == {index + 1: costs for index, costs in alone.items()}
    assert learner.step_penalties([lost, lost]) == {}
    assert "reference_k3" not in learner.update(batch()).summary()


def test_an_update_with_episodes_that_never_began_is_the_one_without_them(path: str) -> None:
    """Records have no row of them, so a replay learns without: no minibatch and no coefficient may count them."""
    kl = ReferenceKl(coef=0.5, control=AdaptiveControl(target=1e-9, horizon=60))
    lost = [credited([], [], id=f"lost-{group}", group=group) for group in ("lost", "1")]
    made: list[tuple[Any, ...]] = []
    for some in (batch(), [lost[0], *batch(), lost[1]]):
        learner = rank(path, minibatches=2, loss=LossConfig(kl=kl))
        learner.begin_reinforcement()
        first, second = learner.update(some), learner.update(some)
        # Six trajectories of 60 move the coefficient by 2 %.
        assert second.kl_coef == pytest.approx(0.5 * 1.02)
        made.append((first.stats, second.stats, second.grad_norm, second.kl_coef, learner.full_parameters()))
    (*numbers, weights), (*others, moved) = made
    assert others == numbers
    assert all(torch.equal(moved[name], tensor) for name, tensor in weights.items())


def test_a_batch_of_episodes_that_never_began_takes_no_step(path: str) -> None:
    assert rank(path).update([credited([], [], id="lost")]).optimiser_steps == 0


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


def test_an_engine_asks_for_no_more_than_its_model_is_worth(path: str) -> None:
    """DeepSpeed's own bucket is a gigabyte for every engine of ZeRO 3, and stays."""
    rank(path, zero_stage=3, dtype="bfloat16").update(batch())
    before = address_space()
    rank(path, zero_stage=3, dtype="bfloat16").update(batch())
    assert address_space() - before < 200 * 2**20


def address_space() -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:"))


def save(learner: LearnerRank, directory: Path) -> dict[str, str]:
    """Save, and wait until the files are there."""
    learner.save(str(directory))
    return PendingSave(lambda: [learner.saved()], 60.0).wait()


def state_of(directory: Path) -> dict[tuple[str, str], torch.Tensor]:
    """Every master weight and moment of a checkpoint, put together from its shards."""
    facts = json.loads((directory / "learner.json").read_text())
    shards = Shards(directory, facts["ranks"])
    return {(kind, n): shards.read(kind, n, 0, size) for n, size in facts["parameters"].items() for kind in KINDS}


@pytest.mark.parametrize(("stage", "dtype", "offload"), LAYOUTS)
def test_a_checkpoint_continues_exactly(path: str, tmp_path: Path, stage: int, dtype: str, offload: str) -> None:
    changes: dict[str, Any] = {"zero_stage": stage, "dtype": dtype, "offload": {"kind": offload}}
    learner = rank(path, ValueHeadConfig(), **changes)
    learner.update(batch())
    digests = save(learner, tmp_path)
    saved = learner.full_parameters()
    straight, expected = learner.update(batch()), learner.full_parameters()
    again = rank(path, ValueHeadConfig(), **changes)
    again.load(str(tmp_path))
    assert again.update(batch()).stats.loss == pytest.approx(straight.stats.loss, abs=1e-7)
    found = again.full_parameters()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=saved["model.norm.weight"].dtype)
    assert all(torch.equal(exported.state_dict()[name], saved[name]) for name in saved)
    files = {str(file.relative_to(tmp_path)): file for file in tmp_path.rglob("*") if file.is_file()}
    assert digests == {name: blake3.blake3(file.read_bytes()).hexdigest() for name, file in files.items()}


def test_a_checkpoint_goes_through_every_zero_stage_unchanged(path: str, tmp_path: Path) -> None:
    """Offloaded or not: the same bits arrive, and the next update is the one that nothing had interrupted."""
    learner = rank(path, SEPARATE)
    learner.update(batch())
    save(learner, tmp_path / "0")
    learner.update(batch())
    expected = learner.full_parameters()
    ways = [(0, "none"), (2, "optimiser"), (2, "none"), (3, "optimiser_and_parameters"), (3, "none"), (0, "none")]
    for (before, _), (after, (stage, offload)) in pairwise(enumerate(ways)):
        other = rank(path, SEPARATE, zero_stage=stage, offload={"kind": offload})
        other.load(str(tmp_path / str(before)))
        save(other, tmp_path / str(after))
        found, wanted = state_of(tmp_path / str(after)), state_of(tmp_path / "0")
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        other.update(batch())
        for name, tensor in other.full_parameters().items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-7, rtol=0.0)


def test_bfloat16_goes_on_at_another_stage_from_the_same_masters(path: str, tmp_path: Path) -> None:
    learner = rank(path, dtype="bfloat16", zero_stage=0)
    learner.update(batch())
    save(learner, tmp_path / "0")
    for stage in (1, 3):
        other = rank(path, dtype="bfloat16", zero_stage=stage)
        other.load(str(tmp_path / "0"))
        save(other, tmp_path / str(stage))
        found, wanted = state_of(tmp_path / str(stage)), state_of(tmp_path / "0")
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        weights = learner.full_parameters()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in other.full_parameters().items())


def test_training_goes_on_while_a_checkpoint_is_written_and_the_checkpoint_does_not_see_it(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = rank(path)
    before = learner.full_parameters()
    released = Event()

    def write_when_released(*arguments: Any) -> dict[str, str]:
        assert released.wait(60.0)
        return write_snapshot(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("learner.rank.write_snapshot", write_when_released)
        learner.save(str(tmp_path))
        learner.update(batch())
        assert learner.saved() is None
        with pytest.raises(RuntimeError, match="one is being written"):
            learner.save(str(tmp_path / "other"))
        released.set()
        PendingSave(lambda: [learner.saved()], 60.0).wait()
    assert not any(torch.equal(before[name], tensor) for name, tensor in learner.full_parameters().items())
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in before.items())


def test_a_checkpoint_of_another_model_or_critic_is_refused(path: str, tmp_path: Path) -> None:
    learner = rank(path)
    save(learner, tmp_path)
    facts = json.loads((tmp_path / "learner.json").read_text())
    facts["parameters"]["value_head.weight"] = 48
    (tmp_path / "learner.json").write_text(json.dumps(facts))
    with pytest.raises(BadCheckpoint, match=r"'value_head\.weight': found 48 elements, expected 32"):
        learner.load(str(tmp_path))


def test_a_checkpoint_without_one_of_its_shards_is_refused(path: str, tmp_path: Path) -> None:
    learner = rank(path)
    save(learner, tmp_path)
    (tmp_path / "state-00000-of-00001.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"shard state-00000-of-00001\.safetensors is missing"):
        learner.load(str(tmp_path))


def test_what_went_wrong_while_writing_is_told_to_who_waits(path: str, tmp_path: Path) -> None:
    learner = rank(path)
    (tmp_path / "state-00000-of-00001.safetensors").mkdir()
    learner.save(str(tmp_path))
    with pytest.raises(IsADirectoryError):
        PendingSave(lambda: [learner.saved()], 60.0).wait()
