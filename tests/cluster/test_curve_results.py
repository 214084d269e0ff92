"""Summary statistics of learning curves, by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.curve_picture import draw_methods, draw_methods_at_equal_tokens
from cluster.curve_results import (
    Estimate,
    Point,
    common_budget,
    mean_with_interval,
    rate_at,
    results_table,
    spent_tokens,
    summarise_methods,
    write_points,
)
from cluster.evaluation import Evaluation
from cluster.run_directory import RunDirectory


def run_points(
    method: str, seed: int, rates: tuple[float, ...], greedy: float, sampled: float = 0.25, tokens: int = 100
) -> list[Point]:
    """A run that starts at 0.5 greedy and 0.125 sampled and samples `tokens` tokens an iteration."""
    last = len(rates)
    trained = [
        Point(method, seed, i, rate, 2.0, tokens, *((greedy, sampled) if i == last else (None, None)))
        for i, rate in enumerate(rates, start=1)
    ]
    return [Point(method, seed, 0, None, None, 0, 0.5, 0.125), *trained]


def is_near(found: Estimate, value: float, half: float) -> bool:
    return (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half), abs=1e-5)


def test_the_interval_of_three_seeds_is_that_of_student() -> None:
    # Mean 2, deviation 1; with two degrees of freedom t is 4.303, and 4.303 / √3 = 2.48434.
    assert is_near(mean_with_interval([1.0, 2.0, 3.0]), 2.0, 2.48434)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    assert mean_with_interval([0.25]) == Estimate(0.25, None, None)


def test_beyond_the_table_the_interval_is_a_little_too_wide_and_never_too_narrow() -> None:
    # 100 values, half of them 0 and half 1: deviation √(25 / 99), and Student's t with 99 degrees of freedom is 1.984.
    found = mean_with_interval([0.0, 1.0] * 50)
    exact = 1.984 * (25 / 99) ** 0.5 / 10
    assert found.high is not None
    assert exact < found.high - 0.5 < 1.06 * exact


def test_a_summary_averages_over_seeds_and_pairs_each_seed_with_the_same_one_of_the_default() -> None:
    points = [
        *run_points("step_gae", 0, (0.2, 0.4), greedy=0.6),
        *run_points("step_gae", 1, (0.4, 0.8), greedy=0.8),
        *run_points("grpo", 0, (0.1, 0.3), greedy=0.5),
        *run_points("grpo", 1, (0.3, 0.5), greedy=0.4),
    ]
    summary = summarise_methods(points)["grpo"]
    # Two seeds: the deviation is |a − b| / √2, so half the interval is 12.706·|a − b| / 2.
    assert summary.seeds == 2
    assert is_near(summary.greedy_before, 0.5, 0.0)
    assert is_near(summary.sampled_before, 0.125, 0.0)
    assert is_near(summary.greedy, 0.45, 12.706 * 0.1 / 2)
    assert is_near(summary.sampled, 0.25, 0.0)
    assert is_near(summary.area, 0.3, 12.706 * 0.2 / 2)
    assert summary.tokens == 200
    # Greedy 0.5 − 0.6 and 0.4 − 0.8; areas 0.2 − 0.3 and 0.4 − 0.6.
    assert is_near(summary.greedy_gap, -0.25, 12.706 * 0.3 / 2)
    assert is_near(summary.area_gap, -0.15, 12.706 * 0.1 / 2)
    assert is_near(summary.sampled_gap, 0.0, 0.0)


def test_the_budget_is_what_every_run_has_spent_and_an_iteration_that_it_cuts_counts_in_part() -> None:
    points = [
        *run_points("step_gae", 0, (0.2, 0.4), greedy=0.6, tokens=60),
        *run_points("step_gae", 1, (0.4, 0.8), greedy=0.6, tokens=75),
        *run_points("monte_carlo", 0, (0.1, 0.9), greedy=0.6, tokens=400),
        *run_points("monte_carlo", 1, (0.5, 0.9), greedy=0.6, tokens=80),
    ]
    assert common_budget(points) == 120
    found = summarise_methods(points)
    default, other = found["step_gae"], found["monte_carlo"]
    assert default.token_budget == other.token_budget == 120
    # All of the first seed: (0.2·60 + 0.4·60) / 120. Of the second 75 and 45: (0.4·75 + 0.8·45) / 120.
    assert is_near(default.area_to_budget, (0.3 + 0.55) / 2, 12.706 * 0.25 / 2)
    # 120 of the first 400 tokens, whose rate is 0.1; then 80 and 40: (0.5·80 + 0.9·40) / 120 = 0.63333.
    assert is_near(other.area_to_budget, (0.1 + 0.633333) / 2, 12.706 * 0.533333 / 2)
    # Seed by seed: 0.1 − 0.3 and 0.63333 − 0.55.
    assert is_near(other.area_to_budget_gap, -0.058333, 12.706 * 0.283333 / 2)
    # By iterations monte_carlo is ahead, and by tokens it is behind.
    assert other.area.value > default.area.value


def test_a_token_has_the_rate_of_the_iteration_that_sampled_it() -> None:
    spent = spent_tokens(run_points("grpo", 0, (0.25, 0.5, 0.75), greedy=0.6, tokens=80), budget=200)
    assert spent == [(0.25, 80), (0.5, 80), (0.75, 40)]
    assert [rate_at(spent, place) for place in (1, 80, 80.5, 160, 161, 200)] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_the_default_does_not_differ_from_itself() -> None:
    summary = summarise_methods([p for seed in (0, 1) for p in run_points("step_gae", seed, (0.3,), 0.5 + 0.25 * seed)])
    assert is_near(summary["step_gae"].greedy_gap, 0.0, 0.0)


def test_a_seed_that_the_default_lacks_cannot_be_compared() -> None:
    points = [*run_points("step_gae", 0, (0.2,), 0.6), *run_points("grpo", 1, (0.2,), 0.6)]
    with pytest.raises(ValueError, match=r"'step_gae': no runs with the seeds \[1\], which others have"):
        summarise_methods(points)


def test_a_run_without_its_last_evaluation_is_named() -> None:
    with pytest.raises(ValueError, match=r"method 'step_gae', seed 0, iteration 1: no held-out rate"):
        summarise_methods(run_points("step_gae", 0, (0.2, 0.3), greedy=0.6)[:2])


def test_the_table_is_in_per_cent_begins_with_the_start_and_compares_nothing_with_itself() -> None:
    points = [
        *(point for seed in (0, 1) for point in run_points("step_gae", seed, (0.25, 0.5), 0.75, tokens=1000)),
        *(point for seed in (0, 1) for point in run_points("rft", seed, (0.5,), 0.625, tokens=1000)),
    ]
    assert results_table(summarise_methods(points)).splitlines() == [
        "| method | greedy | sampled | area | area to 1,000 tokens | greedy − default | sampled − default | "
        "area − default | area to 1,000 tokens − default | tokens |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `start` | 50.0 [50.0, 50.0] | 12.5 [12.5, 12.5] |  |  |  |  |  |  |  |",
        "| `step_gae` | 75.0 [75.0, 75.0] | 25.0 [25.0, 25.0] | 37.5 [37.5, 37.5] | 25.0 [25.0, 25.0] |  |  |  |  | "
        "2,000 |",
        "| `rft` | 62.5 [62.5, 62.5] | 25.0 [25.0, 25.0] | 50.0 [50.0, 50.0] | 50.0 [50.0, 50.0] | "
        "-12.5 [-12.5, -12.5] | 0.0 [0.0, 0.0] | 12.5 [12.5, 12.5] | 25.0 [25.0, 25.0] | 1,000 |",
    ]


def evaluation(solved: float) -> Evaluation:
    return Evaluation(4, solved, (0.0, 1.0), {"L0": solved}, 1.0, 0.0, {"L0": 1.0})


def test_every_iteration_is_a_row_between_the_two_evaluations(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.append_evaluation("before", evaluation(0.25), evaluation(0.125), 1.0)
    for iteration, rate in ((1, 0.5), (2, 0.75)):
        run.append_metrics({"iteration": iteration, "solved_rate": rate, "steps": 2.5, "sampled_tokens": 40})
    run.append_evaluation("after", evaluation(0.75), evaluation(0.5), 1.0)
    points = write_points(tmp_path / "curves.csv", [("grpo", 3, run)])
    assert points == [
        Point("grpo", 3, 0, None, None, 0, 0.25, 0.125),
        Point("grpo", 3, 1, 0.5, 2.5, 40, None, None),
        Point("grpo", 3, 2, 0.75, 2.5, 40, 0.75, 0.5),
    ]
    with (tmp_path / "curves.csv").open() as file:
        assert [(row["iteration"], row["solved"], row["greedy"]) for row in csv.DictReader(file)] == [
            *(("0", "", "0.25"), ("1", "0.5", ""), ("2", "0.75", "0.75")),
        ]


@pytest.mark.parametrize("draw", [draw_methods, draw_methods_at_equal_tokens])
def test_a_picture_has_a_panel_for_each_method(draw: Callable[[list[Point], Path], None], tmp_path: Path) -> None:
    methods = ("step_gae", "grpo", "rft", "tree", "rloo")
    points = [p for method in methods for seed in (0, 1) for p in run_points(method, seed, (0.2, 0.4), 0.6)]
    draw(points, tmp_path / "five.png")
    draw(points[:6], tmp_path / "one.png")
    # PNG: width and height stand in bytes 16 to 24. Five panels take two rows of four.
    height = {name: int.from_bytes((tmp_path / f"{name}.png").read_bytes()[20:24], "big") for name in ("one", "five")}
    assert height["five"] > 1.5 * height["one"]


def test_a_method_may_be_drawn_without_the_default(tmp_path: Path) -> None:
    draw_methods_at_equal_tokens(run_points("grpo", 0, (0.2, 0.4), 0.6), tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
