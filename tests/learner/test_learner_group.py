"""Real DeepSpeed ranks in real Ray actors on gloo: one rank, two ranks, every ZeRO stage, the same update."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from actors.trajectory import Step
from learner.config import (
    GroupStepConfig,
    LearnerConfig,
    LossConfig,
    OptimiserConfig,
    ReferenceKl,
    SftConfig,
    StepGaeConfig,
    ValueHeadConfig,
)
from learner.credit import CreditedTrajectory
from learner.errors import LearnerLost
from learner.group import LearnerGroup
from learner.packing import Demonstration
from tests.learner.builders import credited, step

pytestmark = pytest.mark.timeout(240)

DETACHED = StepGaeConfig(critic=ValueHeadConfig(backbone="detached"))
SHARED = StepGaeConfig(critic=ValueHeadConfig(backbone="shared"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("model"))
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=64,
            tie_word_embeddings=True,
        )
    ).save_pretrained(path)
    return path


@contextmanager
def learner(path: str, credit: Any, **changes: Any) -> Iterator[LearnerGroup]:
    settings: dict[str, Any] = {
        "model_path": path,
        "dtype": "float32",
        "zero_stage": 0,
        "pack_tokens": 60,
        "threads": 1,
        "deadline_seconds": 120.0,
        "optimiser": OptimiserConfig(lr=1e-3),
        "sft": SftConfig(lr=1e-2, batch_trajectories=4),
    }
    group = LearnerGroup(LearnerConfig(**{**settings, **changes}), credit)
    try:
        yield group
    finally:
        group.shutdown()


def batch() -> list[CreditedTrajectory]:
    """Two groups of three; log-probabilities are filled in as −ln 64, those of a model that knows nothing."""
    rng = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(64) for _ in range(count))

    out: list[CreditedTrajectory] = []
    for g in range(2):
        prompt = tokens(12)
        for k in range(3):
            steps = [step(prompt, tokens(6), -4.16), step(tokens(5), tokens(4), -4.16)]
            advantages = (rng.gauss(0, 1), None if k == 2 else rng.gauss(0, 1))
            out.append(credited(advantages, steps, id=f"{g}-{k}", group=str(g)))
    return out


def demonstrations() -> list[Demonstration]:
    sequences = [tuple(one.scored.trajectory.token_ids()) for one in batch()]
    return [Demonstration(ids, tuple(i >= 12 for i in range(len(ids)))) for ids in sequences]


def two_updates(path: str, credit: Any, **changes: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    with learner(path, credit, **changes) as group:
        group.begin_reinforcement()
        reports = [group.update(batch()).summary() for _ in range(2)]
        return reports, group.full_parameters()


COMPARED = ("loss", "policy_loss", "value_loss", "grad_norm", "ratio_mean", "entropy", "lr")


@pytest.fixture(scope="module")
def one_rank(model_path: str, ray_local: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    return two_updates(model_path, SHARED)


@pytest.mark.parametrize(("ranks", "stage"), [(2, 0), (1, 1), (2, 1), (2, 2), (1, 3), (2, 3)])
def test_ranks_and_zero_stages_make_the_same_update(model_path: str, one_rank: Any, ranks: int, stage: int) -> None:
    reports, parameters = two_updates(model_path, SHARED, ranks=ranks, zero_stage=stage)
    expected_reports, expected = one_rank
    for found, wanted in zip(reports, expected_reports, strict=True):
        assert {k: found[k] for k in COMPARED} == pytest.approx({k: wanted[k] for k in COMPARED}, rel=1e-4, abs=1e-6)
    assert parameters.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(parameters[name], tensor, atol=1e-5, rtol=1e-4)


def test_bfloat16_keeps_float32_masters(model_path: str, ray_local: str) -> None:
    """A rate below bfloat16's resolution moves nothing in one step, and something after many."""
    with learner(
        model_path, GroupStepConfig(), dtype="bfloat16", zero_stage=1, optimiser=OptimiserConfig(lr=2e-6)
    ) as group:
        before = group.full_parameters()["model.layers.0.mlp.up_proj.weight"]
        after_one = changed(group, before, 1)
        after_many = changed(group, before, 12)
    assert before.dtype == torch.bfloat16
    assert after_many > 3 * after_one > 0


def changed(group: LearnerGroup, before: torch.Tensor, updates: int) -> int:
    for _ in range(updates):
        group.update(batch())
    return int((group.full_parameters()["model.layers.0.mlp.up_proj.weight"] != before).sum())


def test_ratios_are_exactly_one_on_the_first_pass_and_not_on_the_second(model_path: str, ray_local: str) -> None:
    """steptool.md §1 defect 3. Behaviour log-probabilities come from the same weights in float32."""
    with learner(model_path, GroupStepConfig()) as group:
        on_policy = with_behaviour(batch(), group)
        first, second = group.update(on_policy).summary(), group.update(on_policy).summary()
    assert first["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert first["clip_fraction"] == 0.0
    assert abs(second["ratio_max"] - 1.0) > 1e-3


def with_behaviour(credited_batch: list[CreditedTrajectory], group: LearnerGroup) -> list[CreditedTrajectory]:
    """The same batch with the learner's own log-probabilities as behaviour."""
    sequences = [
        Demonstration(tuple(one.scored.trajectory.token_ids()), action_mask(one.scored.trajectory.steps))
        for one in credited_batch
    ]
    found: list[CreditedTrajectory] = []
    for one, numbers in zip(credited_batch, group.log_probs(sequences), strict=True):
        queue = iter(numbers)
        steps: list[Step] = []
        for s in one.scored.trajectory.steps:
            logprobs = tuple(next(queue) for _ in s.action_ids)
            steps.append(Step(s.prompt_ids, s.action_ids, logprobs, s.versions, s.action, s.result, s.progress))
        trajectory = one.scored.trajectory
        found.append(credited(one.advantages, steps, id=trajectory.id, group=trajectory.group))
    return found


def action_mask(steps: tuple[Step, ...]) -> tuple[bool, ...]:
    return tuple(flag for s in steps for flag in (False,) * len(s.prompt_ids) + (True,) * len(s.action_ids))


def test_an_update_raises_what_was_good_and_lowers_what_was_bad(model_path: str, ray_local: str) -> None:
    good, bad = step((1, 2, 3), (4, 5), -4.16), step((1, 2, 3), (6, 7), -4.16)
    taught = [credited([1.0], [good], id="good"), credited([-1.0], [bad], id="bad")]
    probes = [Demonstration((1, 2, 3, *s.action_ids), (False, False, False, True, True)) for s in (good, bad)]
    with learner(model_path, GroupStepConfig()) as group:
        before = group.log_probs(probes)
        assert group.update(taught).optimiser_steps == 1
        after = group.log_probs(probes)
    assert sum(after[0]) > sum(before[0])
    assert sum(after[1]) < sum(before[1])


def test_a_batch_without_credit_changes_nothing_and_says_so(model_path: str, ray_local: str) -> None:
    nothing = [credited([0.0, None], [step((1, 2), (3,)), step((4,), (5,))])]
    with learner(model_path, GroupStepConfig()) as group:
        before = group.full_parameters()
        report = group.update(nothing)
        after = group.full_parameters()
    assert (report.optimiser_steps, report.computed_tokens) == (0, 0)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_warm_start_learns_its_demonstrations_and_reports_progress(model_path: str, ray_local: str) -> None:
    seen: list[int] = []
    with learner(model_path, GroupStepConfig(), ranks=2, zero_stage=2, sft=SftConfig(lr=1e-2, epochs=8)) as group:
        reports = group.warm_start(demonstrations(), lambda report: seen.append(report.step))
    assert seen == list(range(16))
    assert {report.steps for report in reports} == {16}
    assert reports[-1].loss < 0.7 * reports[1].loss


def test_the_value_head_learns_the_returns(model_path: str, ray_local: str) -> None:
    critic = StepGaeConfig(critic=ValueHeadConfig(lr=1e-2))
    trajectories = [one.scored.trajectory for one in batch()]
    with learner(model_path, critic, ranks=2) as group:
        before = group.values(trajectories)
        losses = [group.update(batch()).stats.value_loss for _ in range(15)]
        after = group.values(trajectories)
    assert [len(one) for one in after] == [2] * 6
    assert {value for one in before for value in one} == {0.0}
    # Every return is ½: the untrained head is wrong by ½, weighted ½ · ½ · ¼.
    assert losses[0] == pytest.approx(0.0625)
    assert losses[-1] < 0.2 * losses[0]


def test_kl_to_the_reference_starts_at_zero_and_grows(model_path: str, ray_local: str) -> None:
    with learner(model_path, GroupStepConfig(), loss=LossConfig(kl=ReferenceKl(coef=0.1))) as group:
        group.warm_start(demonstrations())
        group.begin_reinforcement()
        first, second = group.update(batch()).summary(), group.update(batch()).summary()
    assert first["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["reference_kl"] > 1e-5


@pytest.mark.parametrize(("ranks", "stage", "dtype"), [(1, 0, "float32"), (2, 3, "float32"), (1, 1, "bfloat16")])
def test_a_checkpoint_continues_exactly(
    model_path: str, ray_local: str, tmp_path: Path, ranks: int, stage: int, dtype: str
) -> None:
    changes: dict[str, Any] = {"ranks": ranks, "zero_stage": stage, "dtype": dtype}
    with learner(model_path, DETACHED, **changes) as group:
        group.update(batch())
        group.save(str(tmp_path))
        saved = group.full_parameters()
        straight = group.update(batch())
        expected = group.full_parameters()
    with learner(model_path, DETACHED, **changes) as group:
        group.load(str(tmp_path))
        resumed = group.update(batch())
        found = group.full_parameters()
    assert resumed.stats.loss == pytest.approx(straight.stats.loss, abs=1e-7)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=saved["model.norm.weight"].dtype)
    assert all(torch.equal(exported.state_dict()[name], saved[name]) for name in saved)


def test_a_lost_rank_is_told_apart_from_an_error(model_path: str, ray_local: str) -> None:
    with learner(model_path, GroupStepConfig(), ranks=2) as group:
        ray.kill(group.actors[1])
        with pytest.raises(LearnerLost, match="a rank died"):
            group.update(batch())
