from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray import tune

import cluster.rllib
from cluster.checkpoint import list_checkpoints
from cluster.errors import BadConfiguration, CheckpointError
from cluster.placement import place, plan
from cluster.rllib import StepToolAlgorithm, StepToolConfig
from tests.cluster.builders import SMALL, FakeLearner, FakeRollouts, small_config


def small_settings(**more: Any) -> dict[str, Any]:
    import yaml

    model = small_config().rollout.model
    small = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in SMALL)}
    return {**small, "rollout.model": model, "learner.model_path": model, **more}


@pytest.fixture
def log(ray_local: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put fake parts behind the shell; what happens to them is in the list."""
    events: list[str] = []

    @contextmanager
    def start_fakes(config: Any, announce: Any) -> Iterator[Any]:
        yield SimpleNamespace(learner=FakeLearner(events), rollouts=FakeRollouts(events))
        events.append("stopped")

    monkeypatch.setattr(cluster.rllib, "start_parts", start_fakes)
    return events


def test_settings_are_those_of_the_command_line() -> None:
    config = StepToolConfig().preset("quickstart").settings({"seed": 3, "learner.optimiser.lr": 1e-05})
    config.settings({"task.levels": ["L0"]})
    assert config.resolve().seed == 3
    assert config.resolve().learner.optimiser.lr == 1e-05
    assert config.resolve().task.levels == ("L0",)


def test_a_wrong_setting_is_refused_before_anything_is_built() -> None:
    with pytest.raises(BadConfiguration, match=r"did you mean 'loop\.iterations'"):
        StepToolConfig().settings({"loop.iteration": 3}).build_algo()


def test_tune_reserves_the_trial_and_then_every_actor_of_the_plan() -> None:
    asked = {"placement.learner_cpus": 0.9, "placement.rollout_cpus": 0.7, "placement.sandbox_cpus": 0.1}
    request = StepToolAlgorithm.default_resource_request(StepToolConfig().settings(asked).to_dict())
    assert request.bundles == [{"CPU": 0.1}, {"CPU": 0.9}, {"CPU": 0.7}, {"CPU": 0.1}]


@pytest.mark.parametrize("build", ["build", "build_algo"])
def test_each_train_is_one_iteration_of_the_loop(log: list[str], build: str) -> None:
    algorithm = getattr(StepToolConfig().settings(small_settings()), build)()
    try:
        first, second = algorithm.train(), algorithm.train()
    finally:
        algorithm.stop()
    assert (first["training_iteration"], second["training_iteration"]) == (1, 2)
    assert (first["version"], second["version"]) == (2, 3)
    assert (first["loss"], second["loss"]) == (0.25, 0.5)
    assert first["solved_rate"] == 0.5
    assert first["learner"]["grad_norm"] == 0.5
    assert log.count("update") == 2
    assert log[-1] == "stopped"


def test_an_algorithm_made_from_a_checkpoint_continues_without_a_second_warm_start(
    log: list[str], tmp_path: Path
) -> None:
    first = StepToolConfig().settings(small_settings()).build_algo()
    first.train()
    path = first.save_to_path(tmp_path / "saved")
    first.stop()
    log.clear()
    second = StepToolAlgorithm.from_checkpoint(path)
    result = second.train()
    second.stop()
    assert (result["version"], result["loss"]) == (3, 0.5)
    assert log[:4] == ["load", "publish", "load version 2", "canary-2"]
    assert "warm start on 2" not in log


def test_save_and_restore_keep_count_of_the_iterations(log: list[str], tmp_path: Path) -> None:
    first = StepToolConfig().settings(small_settings()).build_algo()
    first.train()
    saved = first.save(str(tmp_path / "saved"))
    first.stop()
    assert [path.name for path in list_checkpoints(tmp_path / "saved")] == ["00001"]
    second = StepToolConfig().settings(small_settings()).build_algo()
    second.restore(saved)
    assert second.train()["training_iteration"] == 2
    second.stop()


def test_a_directory_that_holds_no_checkpoint_is_refused(log: list[str], tmp_path: Path) -> None:
    algorithm = StepToolConfig().settings(small_settings()).build_algo()
    try:
        with pytest.raises(CheckpointError, match="found no complete one"):
            algorithm.load_checkpoint(str(tmp_path))
    finally:
        algorithm.stop()


class FakeTrial(StepToolAlgorithm):
    """In a trial's own process, where no fixture reaches: really placed, but without Serve, engine and learner."""

    def _start(self) -> Any:
        @contextmanager
        def start_fakes(config: Any, announce: Any) -> Iterator[Any]:
            # Local, so that it travels by value: its process then starts without this module's imports.
            class Rank:
                def resources(self) -> dict[str, float]:
                    import ray

                    return ray.get_runtime_context().get_assigned_resources()

            placement = place(plan(config), config.name, 1.0)
            rank = ray.remote(Rank).options(**placement.options("learner")[0]).remote()
            found: Any = ray.get(rank.resources.remote(), timeout=120.0)
            assert sum(amount for name, amount in found.items() if name == "CPU" or name.startswith("CPU_group_")) > 0.8
            events: list[str] = []
            yield SimpleNamespace(learner=FakeLearner(events), rollouts=FakeRollouts(events))
            placement.release()

        cluster.rllib.start_parts = start_fakes
        cluster.rllib._start_serve_outside_the_group = lambda: None
        return super()._start()


def group_size(result: tune.Result) -> int:
    assert result.config is not None
    return result.config["steptool_settings"]["task.group_size"]


@pytest.mark.timeout(900)  # Three processes import everything, side by side on two cores.
def test_tune_tries_each_setting_in_a_trial_that_holds_its_parts(ray_local: str, tmp_path: Path) -> None:
    space = StepToolConfig(FakeTrial).settings(small_settings(**{"task.group_size": tune.grid_search([2, 3])}))
    tuner = tune.Tuner(
        FakeTrial,
        param_space=cast("dict[str, Any]", space),
        run_config=tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 2}, verbose=0),
    )
    results = tuner.fit()
    assert list(results.errors) == []
    found = {group_size(result): result.metrics or {} for result in results}
    assert {size: metrics["trajectories"] for size, metrics in found.items()} == {2: 4.0, 3: 6.0}
    assert {metrics["version"] for metrics in found.values()} == {3.0}
