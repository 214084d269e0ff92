"""Which settings a run may change when it goes on, and which of them metrics.jsonl remembers."""

from __future__ import annotations

import pytest

from cluster.layout import LAYOUT, laid_out, layout_of, without_layout
from cluster.presets import load_config, setting_names


def test_every_setting_of_the_layout_is_a_setting() -> None:
    assert set(LAYOUT) - set(setting_names()) == set()


def test_without_its_layout_a_configuration_keeps_all_other_settings() -> None:
    settings = {"seed": 1, "placement": {"a": 1}, "learner": {"ranks": 2, "seed": 3, "offload": {"kind": "none"}}}
    assert without_layout(settings) == {"seed": 1, "learner": {"seed": 3}}
    assert settings["learner"] == {"ranks": 2, "seed": 3, "offload": {"kind": "none"}}


@pytest.mark.parametrize(
    "remedy",
    [
        "learner.offload.kind=optimiser",
        "learner.activations.kind=recompute",
        "learner.pack_tokens=512",
        "learner.threads=1",
        "learner.deadline_seconds=7200",
        "rollout.engine.kv_cache_gib=1",
        "rollout.engine.turn_seconds=900",
        "sandbox.max_sessions=512",
        "rewards.start_seconds=600",
    ],
)
def test_what_helps_after_too_little_memory_or_time_leaves_a_run_the_same(remedy: str) -> None:
    before, after = (load_config("quickstart", ["learner.zero_stage=1", *more]) for more in ([], [remedy]))
    assert before != after
    assert without_layout(before.model_dump(mode="json")) == without_layout(after.model_dump(mode="json"))


@pytest.mark.parametrize(
    "other",
    [
        "learner.dtype=bfloat16",
        "learner.minibatches=1",
        "learner.passes=3",
        "learner.seed=1",
        "rollout.engine.dtype=bfloat16",
        "rollout.engine.max_model_len=512",
        "sandbox.isolation.cpu_seconds=3",
        "rewards.shaping.step_cost=0.2",
        "checkpoint.every=7",
    ],
)
def test_what_decides_a_number_makes_another_run(other: str) -> None:
    before, after = load_config("quickstart"), load_config("quickstart", [other])
    assert before != after
    assert without_layout(before.model_dump(mode="json")) != without_layout(after.model_dump(mode="json"))


def test_the_learner_of_a_run_can_be_laid_out_as_it_was_recorded() -> None:
    now = load_config("quickstart", ["learner.ranks=2", "learner.zero_stage=2", "learner.pack_tokens=512"])
    then = load_config("quickstart", ["learner.ranks=1", "learner.zero_stage=1", "learner.offload.kind=optimiser"])
    assert layout_of(then)["offload"] == {"kind": "optimiser"}
    assert laid_out(now, layout_of(then)) == then
    assert laid_out(now, layout_of(now)) == now
