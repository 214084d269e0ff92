"""Settings that would do nothing, or not what they say, are refused with what to do."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from learner.config import LearnerConfig, OptimiserConfig, ValueHeadConfig
from learner.objective.config import LossConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"surrogate": {"kind": "gspo"}, "correction": {"kind": "tis", "level": "token"}},
            "correction.level is token and surrogate.level is trajectory.*set correction.level to trajectory",
        ),
        (
            {"surrogate": {"kind": "ppo_clip", "level": "step"}, "correction": {"kind": "icepop"}},
            "set correction.level to step or coarser",
        ),
        ({"surrogate": {"kind": "gspo", "level": "token"}}, "Input should be 'step' or 'trajectory'"),
        ({"surrogate": {"kind": "dual_clip", "cap": 1.28}}, "cap is 1.28, expected more than 1 [+] clip_high"),
        ({"entropy": {"kind": "bonus", "coef": 0.0}}, "greater than 0"),
        ({"entropy": {"kind": "none", "coef": 0.1}}, "Extra inputs are not permitted"),
        ({"kl": {"kind": "reference", "estimator": "k1"}}, "gradient is zero in expectation.*use k2 or k3, or place"),
        ({"kl": {"kind": "none", "control": {"kind": "adaptive", "target": 0.1}}}, "Extra inputs are not permitted"),
        ({"kl": {"kind": "reference", "coef": 0.0}}, "greater than 0"),
        ({"kl": {"kind": "reference", "control": {"kind": "fixed", "target": 0.1}}}, "Extra inputs are not permitted"),
        ({"correction": {"kind": "none", "cap": 2.0}}, "Extra inputs are not permitted"),
        ({"correction": {"kind": "icepop", "low": 1.5}}, "less than 1"),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LossConfig.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"surrogate": {"kind": "ppo_clip"}, "correction": {"kind": "masked", "level": "trajectory"}},
        {"surrogate": {"kind": "gspo", "level": "step"}, "correction": {"kind": "tis", "level": "step"}},
        {"kl": {"kind": "reference", "estimator": "k1", "place": "reward"}},
    ],
)
def test_a_coarser_correction_and_k1_in_the_reward_are_accepted(settings: dict[str, Any]) -> None:
    assert LossConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": {"kind": "cosine", "steps": 5}, "warmup_steps": 5},
            "schedule.steps is 5, expected more than warmup_steps, which is 5",
        ),
        ({"skip_grad_norm": 0.5}, "skip_grad_norm is 0.5, expected more than max_grad_norm, which is 1"),
        ({"schedule": {"kind": "constant", "steps": 5}}, "Extra inputs are not permitted"),
    ],
)
def test_an_optimiser_whose_settings_undo_each_other_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimiserConfig.model_validate(settings)


def test_stopping_between_passes_needs_a_second_pass() -> None:
    with pytest.raises(ValidationError, match="passes is 1: there is no pass to leave out"):
        LearnerConfig(model_path="m", stop_kl=0.1)
    assert LearnerConfig(model_path="m", stop_kl=0.1, passes=2)


@pytest.mark.parametrize(
    ("kind", "stage", "least"), [("optimiser", 0, 1), ("optimiser_and_parameters", 2, 3)], ids=["optimiser", "weights"]
)
def test_only_what_zero_partitions_can_be_offloaded(kind: str, stage: int, least: int) -> None:
    chosen: dict[str, Any] = {"model_path": "m", "offload": {"kind": kind}}
    with pytest.raises(ValidationError, match=f"offload.kind is {kind} and zero_stage is {stage}, expected {least} or"):
        LearnerConfig.model_validate({**chosen, "zero_stage": stage})
    assert LearnerConfig.model_validate({**chosen, "zero_stage": least})


@pytest.mark.parametrize("backbone", ["detached", "shared"])
def test_a_rate_of_the_critics_layers_needs_layers_of_its_own(backbone: str) -> None:
    with pytest.raises(ValidationError, match=f"backbone_lr is 1e-05 and backbone is {backbone}, expected separate"):
        ValueHeadConfig.model_validate({"backbone": backbone, "backbone_lr": 1e-5})
    assert ValueHeadConfig(backbone="separate", backbone_lr=1e-5)


def test_a_value_head_without_weight_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        ValueHeadConfig(coef=0.0)


def test_the_old_policy_is_read_only_where_it_can_differ_from_the_current_one() -> None:
    corrected = LossConfig.model_validate({"correction": {"kind": "tis"}})
    assert not LearnerConfig(model_path="m", passes=2).recomputes_old
    assert not LearnerConfig(model_path="m", loss=corrected).recomputes_old
    assert LearnerConfig(model_path="m", loss=corrected, minibatches=2).recomputes_old
