"""Curves of runs that are written by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cluster.curves import draw_curves
from cluster.errors import BadConfiguration
from cluster.launch import sampled_rates
from cluster.run_directory import RunDirectory
from tests.cluster.builders import small_config

SUMMARY = {
    "solved_before": 0.25,
    "solved_before_ci": [0.1, 0.4],
    "by_level_before": {"L0": 0.5, "L1": 0.0},
    "solved_after": 0.5,
    "solved_after_ci": [0.4, 0.6],
    "by_level_after": {"L0": 0.75, "L1": 0.25},
}


def finished(path: Path, seed: int) -> Path:
    run = RunDirectory(path)
    run.create(small_config())
    for iteration in (1, 2):
        seconds = {"rollout": 20.0, "update": 10.0}
        run.append_metrics(
            {"iteration": iteration, "solved_rate": 0.1 * iteration, "step_reward": 0.5, "seconds": seconds}
        )
    run.write_summary({**SUMMARY, "seed": seed})
    return path


def test_each_iteration_of_each_run_is_a_row_and_the_seconds_add_up(tmp_path: Path) -> None:
    runs = [finished(tmp_path / name, seed) for seed, name in enumerate("ab")]
    data, picture = draw_curves(runs, tmp_path / "docs" / "curves")
    with data.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["iteration"], row["train_seconds"]) for row in rows] == [
        *(("0", "1", "30.0"), ("0", "2", "60.0")),
        *(("1", "1", "30.0"), ("1", "2", "60.0")),
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_run_has_no_curve(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").create(small_config())
    with pytest.raises(BadConfiguration, match=r"no summary\.json, so it is not finished"):
        draw_curves([tmp_path / "run"], tmp_path / "curves")


def test_the_sampled_rate_is_averaged_over_three_iterations_at_either_end() -> None:
    assert sampled_rates([0.1, 0.2, 0.3, 0.9, 0.4, 0.5, 0.6]) == pytest.approx((0.2, 0.5))
    assert sampled_rates([0.1, 0.3]) == pytest.approx((0.2, 0.2))
    assert sampled_rates([]) == (0.0, 0.0)
