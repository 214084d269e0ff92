"""Real DeepSpeed ranks in real Ray actors on gloo: two ranks make the update that one makes, at every ZeRO stage."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import OutOfMemoryError

from learner.config import LearnerConfig, StepGaeConfig, ValueHeadConfig
from learner.credit.config import BilevelGaeConfig, StepReturnsConfig, value_head_of
from learner.errors import LearnerLost, NonFinite
from learner.group import LearnerActor, LearnerGroup
from learner.objective.config import LossConfig, PpoClipConfig
from learner.objective.stats import LossStats
from learner.rank import LearnerRank
from learner.reports import UpdateReport
from learner.saving import PendingSave
from tests.learner.batches import (
    batch,
    batch_with_a_loss_that_is_no_number,
    demonstrations,
    save_tiny_model,
    settings,
)

pytestmark = pytest.mark.timeout(300)

SHARED = ValueHeadConfig(backbone="shared")
COMPARED = ("loss", "policy_loss", "value_loss", "ratio_mean", "entropy")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


OBJECTIVES: dict[str, tuple[int, dict[str, Any]]] = {
    "step mean": (
        2,
        {
            "aggregation": "step_mean",
            "surrogate": {"kind": "cispo"},
            "kl": {"kind": "reference", "control": {"kind": "adaptive", "target": 1e-9, "horizon": 60}},
            "entropy": {"kind": "bonus", "coef": 0.1},
        },
    ),
    "trajectory mean": (
        3,
        {
            "aggregation": "trajectory_mean",
            "surrogate": {"kind": "gspo"},
            "correction": {"kind": "tis", "level": "trajectory"},
        },
    ),
}
"""Name → ZeRO stage of the two ranks, and the objective."""


class Updates:
    """A process in which ranks of several stages can be built one after the other: starting one costs seconds."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def run(
        self, config: LearnerConfig, host: str, port: int, updates: int = 2
    ) -> tuple[list[UpdateReport], dict[str, torch.Tensor]]:
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        learner = LearnerRank(config, SHARED, self._rank, config.ranks)
        learner.begin_reinforcement()
        return [learner.update(batch()) for _ in range(updates)], learner.full_parameters()

    def resume(
        self, config: LearnerConfig, host: str, port: int, source: str | None, target: str
    ) -> dict[str, torch.Tensor]:
        """Continue from `source`, make one update, save it as `target`."""
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        learner = LearnerRank(config, SHARED, self._rank, config.ranks)
        if source is not None:
            learner.load(source)
        learner.update(batch())
        learner.save(target)
        PendingSave(lambda: [learner.saved()], 60.0).wait()
        return learner.full_parameters()


def expect_the_same(pair: list[Any], alone: Any) -> None:
    """Reports and weights of two ranks against those of one."""
    (reports, parameters), (others, nothing) = pair
    assert nothing == {}
    for mine, other, wanted in zip(reports, others, alone[0], strict=True):
        found, target = LossStats.total([mine.stats, other.stats]).summary(), wanted.stats.summary()
        assert {k: found[k] for k in COMPARED} == pytest.approx({k: target[k] for k in COMPARED}, rel=1e-4, abs=1e-6)
        assert mine.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
        assert mine.kl_coef == other.kl_coef == pytest.approx(wanted.kl_coef)
        assert (mine.passes, mine.optimiser_steps) == (other.passes, other.optimiser_steps)
        assert (mine.passes, mine.optimiser_steps) == (wanted.passes, wanted.optimiser_steps)
    assert parameters.keys() == alone[1].keys()
    for name, tensor in alone[1].items():
        torch.testing.assert_close(parameters[name], tensor, atol=1e-5, rtol=1e-4)


def test_ranks_zero_stages_and_objectives_make_the_same_update_and_read_the_checkpoints_of_each_other(
    path: str, ray_local: str, tmp_path: Path
) -> None:
    host, port = LearnerActor(settings(path), None, 0).choose_address()
    alone: Any = ray.remote(Updates).options(num_cpus=0).remote(0)
    pair: list[Any] = [ray.remote(Updates).options(num_cpus=0).remote(rank) for rank in range(2)]

    def run_pair(config: LearnerConfig) -> list[Any]:
        return ray.get([one.run.remote(config, host, port) for one in pair], timeout=120)

    def run_alone(config: LearnerConfig) -> Any:
        return ray.get(alone.run.remote(config, host, port + 1), timeout=120)

    expected = run_alone(settings(path))
    for stage in range(4):
        expect_the_same(run_pair(settings(path, ranks=2, zero_stage=stage)), expected)
    for stage, objective in OBJECTIVES.values():
        # The ranks of two see different shares of the batch, and stop after the same pass.
        changes = {"loss": LossConfig.model_validate(objective), "passes": 3, "stop_kl": 1e-5}
        expected = run_alone(settings(path, **changes))
        assert expected[0][0].passes < 3
        expect_the_same(run_pair(settings(path, ranks=2, zero_stage=stage, **changes)), expected)
    # 1 rank → 2 ranks at ZeRO 2 → 2 ranks at ZeRO 3 → 2 ranks at ZeRO 0 → 1 rank: an update at each.
    plan = [(1, 0), (2, 2), (2, 3), (2, 0), (1, 0)]
    source: str | None = None
    for turn, (ranks, stage) in enumerate(plan):
        members, at = (pair, port) if ranks == 2 else ([alone], port + 1)
        config, target = settings(path, ranks=ranks, zero_stage=stage), str(tmp_path / str(turn))
        found = ray.get([one.resume.remote(config, host, at, source, target) for one in members], timeout=120)[0]
        source = target
    _, wanted = ray.get(alone.run.remote(settings(path), host, port + 1, updates=len(plan)), timeout=120)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)
    for actor in (alone, *pair):
        ray.kill(actor)


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise OutOfMemoryError("6 workers were killed due to the node running low on memory")


def test_a_group_of_two_trains_reads_saves_resumes_and_notices_a_lost_rank(
    path: str, ray_local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(path, ranks=2, zero_stage=2)
    group = LearnerGroup(config, StepGaeConfig(critic=SHARED))
    try:
        seen: list[int] = []
        reports = group.warm_start(demonstrations(), lambda report: seen.append(report.step))
        assert seen == [0, 1]
        # Four and two demonstrations of 15 tokens; the loss is a mean over tokens, whoever computed them.
        assert reports[0].loss == pytest.approx(4.16, abs=0.15)
        group.begin_reinforcement()
        trajectories = [one.scored.trajectory for one in batch()]
        assert [len(numbers) for numbers in group.values(trajectories)] == [2] * 6
        before = group.log_probs(demonstrations())
        assert [len(numbers) for numbers in before] == [15] * 6
        saving = group.save(str(tmp_path))
        straight = group.update(batch())
        expected = group.full_parameters()
        names = set(saving.wait())
        assert {"state-00000-of-00002.safetensors", "state-00001-of-00002.safetensors", "learner.json"} < names
        group.load(str(tmp_path))
        assert group.log_probs(demonstrations()) == before
        assert group.update(batch()).stats.loss == pytest.approx(straight.stats.loss, abs=1e-7)
        found = group.full_parameters()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        # What Ray raises for a worker that it ended because the machine ran out of memory is no `RayActorError`.
        with monkeypatch.context() as patch:
            patch.setattr(ray, "get", out_of_memory)
            with pytest.raises(LearnerLost, match="a rank died"):
                group.update(batch())
        ray.kill(group.actors[1])
        with pytest.raises(LearnerLost, match="a rank died"):
            group.update(batch())
    finally:
        group.shutdown()


def test_a_loss_that_is_no_number_on_one_of_two_ends_the_update_at_once_and_not_the_checkpoint_in_flight(
    path: str, ray_local: str, tmp_path: Path
) -> None:
    unbounded = LossConfig(surrogate=PpoClipConfig())
    group = LearnerGroup(settings(path, ranks=2, zero_stage=2, pack_tokens=3, loss=unbounded), StepGaeConfig())
    try:
        saving, began = group.save(str(tmp_path)), monotonic()
        with pytest.raises(NonFinite, match=r"^rank 1: loss inf of the row with trajectories \['odd'\]"):
            group.update(batch_with_a_loss_that_is_no_number())
        assert "state-00001-of-00002.safetensors" in saving.wait()
        # A rank that hung in a collective would have kept `saved` waiting for the deadline, which is 120 seconds.
        assert monotonic() - began < 60.0
    finally:
        group.shutdown()


def test_a_group_that_begins_anew_repeats_its_first_update_and_takes_the_critic_of_another_estimator(
    path: str, ray_local: str
) -> None:
    group = LearnerGroup(settings(path), StepGaeConfig(critic=SHARED))
    try:
        start = group.full_parameters()
        first, after = group.update(batch()), group.full_parameters()
        assert not all(torch.equal(after[name], start[name]) for name in start)
        group.restart(StepGaeConfig(critic=SHARED))
        again = group.full_parameters()
        assert all(torch.equal(again[name], start[name]) for name in start)
        assert group.update(batch()).stats == first.stats
        repeated = group.full_parameters()
        assert all(torch.equal(repeated[name], after[name]) for name in after)
        assert first.summary()["value_loss"] > 0
        group.restart(StepReturnsConfig())
        assert group.update(batch()).summary().get("value_loss", 0.0) == 0.0
    finally:
        group.shutdown()


def test_only_an_estimator_whose_critic_it_is_reads_the_value_head() -> None:
    assert value_head_of(StepGaeConfig(critic=SHARED)) is SHARED
    assert value_head_of(BilevelGaeConfig(critic=SHARED)) is SHARED
    assert value_head_of(StepGaeConfig()) is None
    assert value_head_of(StepReturnsConfig()) is None


def test_options_for_another_number_of_ranks_are_refused(path: str) -> None:
    options: list[dict[str, Any]] = [{}]
    with pytest.raises(ValueError, match="options for 1 ranks, configured 2"):
        LearnerGroup(settings(path, ranks=2), StepReturnsConfig(), options)
