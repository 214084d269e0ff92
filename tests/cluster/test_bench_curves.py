"""`steptool bench curves`: what is run, what is not run again, and what runs share; without Ray, vLLM or DeepSpeed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.bench_curves import Run, bench_curves, planned, train_one
from cluster.errors import BadConfiguration
from cluster.evaluation import Evaluation
from cluster.interrupt import StopFlag
from cluster.parts import Acting, Parts
from learner.config import CreditConfig
from tests.cluster.builders import FakeLearner, FakeRollouts

SOLVED = Evaluation(4, 0.5, (0.1, 0.9), {"L0": 0.5}, 1.0, 0.0, {"L0": 1.0})


def finished(run: Run) -> Run:
    """As a run leaves its directory behind."""
    run.directory.create(run.config)
    run.directory.append_evaluation("before", SOLVED, SOLVED, 1.0)
    for iteration in range(1, run.iterations + 1):
        run.directory.append_metrics({"iteration": iteration, "solved_rate": 0.5, "steps": 2.0, "sampled_tokens": 64})
    run.directory.append_evaluation("after", SOLVED, SOLVED, 1.0)
    run.directory.write_summary({"method": run.method, "seed": run.seed})
    return run


class Gang(FakeLearner):
    """A learner that can begin anew."""

    def restart(self, credit: CreditConfig) -> None:
        self.log.append(f"restart for {credit.kind}")
        self.weights = 0


def fake_parts(rollouts: FakeRollouts, learner: Gang) -> Parts:
    unused: Any = None
    pool: Any = rollouts
    gang: Any = learner
    return Parts(Acting(unused, "key", pool), gang)


def test_every_method_of_a_seed_comes_before_the_next_seed(tmp_path: Path) -> None:
    runs = planned(("step_gae", "grpo"), seeds=2, iterations=3, out=tmp_path)
    assert [(run.seed, run.method) for run in runs] == [(0, "step_gae"), (0, "grpo"), (1, "step_gae"), (1, "grpo")]
    assert len({run.directory.path for run in runs}) == 4


def test_methods_with_a_recipe_of_rewards_of_their_own_come_last(tmp_path: Path) -> None:
    runs = planned(("step_gae", "leave_one_out", "without_step_reward", "rft"), seeds=2, iterations=3, out=tmp_path)
    assert [(run.seed, run.method) for run in runs] == [
        *((seed, method) for seed in (0, 1) for method in ("step_gae", "rft")),
        *((0, "leave_one_out"), (1, "leave_one_out")),
        *((0, "without_step_reward"), (1, "without_step_reward")),
    ]


def test_where_every_run_is_finished_nothing_is_started_and_the_numbers_are_told(tmp_path: Path) -> None:
    for run in planned(("step_gae", "grpo"), seeds=2, iterations=3, out=tmp_path):
        finished(run)
    found = bench_curves(["grpo", "step_gae"], seeds=2, iterations=3, out=tmp_path, workers=2)
    assert json.loads(json.dumps(found))["methods"]["grpo"]["greedy"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["methods"]["grpo"]["tokens"] == found["methods"]["grpo"]["token_budget"] == 3 * 64
    assert found["episodes"] == 3 * 32
    assert (tmp_path / "curves.csv").read_text().count("\n") == 1 + 2 * 2 * 4
    assert "| `grpo` | 50.0 [50.0, 50.0] |" in (tmp_path / "curves.md").read_text()
    for name in ("curves.png", "curves-tokens.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_summary_is_not_finished(tmp_path: Path) -> None:
    run = finished(Run("grpo", 0, 3, tmp_path))
    assert run.is_finished
    run.directory.summary.unlink()
    assert not run.is_finished


def test_runs_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    finished(Run("grpo", 0, 3, tmp_path))
    with pytest.raises(BadConfiguration, match=r"other settings than those of method 'grpo', 4 iterations; choose"):
        bench_curves(["grpo"], seeds=1, iterations=4, out=tmp_path, workers=1)


def test_a_run_is_done_afresh_and_leaves_no_checkpoints(tmp_path: Path) -> None:
    run = Run("step_gae", 0, 2, tmp_path)
    run.directory.create(run.config)
    run.directory.append_metrics({"iteration": 1, "solved_rate": 1.0, "steps": 9.0, "sampled_tokens": 1})
    train_one(run, fake_parts(FakeRollouts([]), Gang([])), StopFlag())
    assert [record["iteration"] for record in run.directory.read_metrics()] == [1, 2]
    assert run.is_finished
    assert not run.directory.checkpoints.exists()
    assert "iteration 2/2" in (run.directory.path / "log").read_text()


def test_the_learner_and_the_engine_begin_every_run_with_the_start_weights(tmp_path: Path) -> None:
    log = list[str]()
    parts = fake_parts(FakeRollouts(log), Gang(log))
    for method in ("grpo", "rft"):
        train_one(Run(method, 0, 1, tmp_path), parts, StopFlag())
    starts = [i for i, line in enumerate(log) if line.startswith("restart")]
    assert [log[i] for i in starts] == ["restart for grpo", "restart for rft"]
    assert all(log[i + 1 : i + 4] == ["begin reinforcement", "publish", "load version 1"] for i in starts)


def test_the_second_method_of_a_seed_plays_no_evaluation_before_training(tmp_path: Path) -> None:
    rollouts = FakeRollouts([])
    for method in ("step_gae", "grpo"):
        train_one(Run(method, 1, 1, tmp_path), fake_parts(rollouts, Gang([])), StopFlag())
    first, second = (Run(method, 1, 1, tmp_path).directory for method in ("step_gae", "grpo"))
    assert second.evaluation("before") == first.evaluation("before")
    assert second.evaluation("before", "sampled") == first.evaluation("before", "sampled")
    heldout, episodes = "play 64 in lock step", "play 32 in lock step"
    played = [line for line in rollouts.log if line.startswith("play")]
    assert played == [heldout, heldout, episodes, heldout, heldout, episodes, heldout, heldout]


def test_both_methods_of_a_seed_train_on_the_same_tasks_with_the_same_sampling_seeds(tmp_path: Path) -> None:
    assert requests_of("step_gae", 2, tmp_path) == requests_of("rft", 2, tmp_path)
    assert requests_of("step_gae", 2, tmp_path) != requests_of("step_gae", 3, tmp_path)


def requests_of(method: str, seed: int, root: Path) -> list[tuple[str, int | None]]:
    """Task and sampling seed of every training episode of two iterations."""
    rollouts = FakeRollouts([])
    train_one(Run(method, seed, 2, root), fake_parts(rollouts, Gang([])), StopFlag())
    training = [request for request in rollouts.played if request.id[:5].isdigit()]
    assert len(training) == 64
    return [(request.task.id, request.seed) for request in training]
