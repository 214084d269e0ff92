"""Learning curves of finished runs, as data and as a picture. Reads run directories, starts nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from cluster.errors import BadConfiguration
from cluster.run_directory import RunDirectory

COLUMNS: tuple[str, ...] = ("seed", "iteration", "train_seconds", "solved_rate", "step_reward", "loss", "steps")


def draw_curves(runs: Sequence[Path], destination: Path) -> tuple[Path, Path]:
    """Write `destination`.csv, one row an iteration, and `destination`.png; returns both paths.

    Raises:
        BadConfiguration: a directory is not a finished run.
    """
    curves = [_read(RunDirectory(path)) for path in runs]
    data, picture = destination.with_suffix(".csv"), destination.with_suffix(".png")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with data.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for _, rows in curves:
            writer.writerows(rows)
    _draw(curves, picture)
    return data, picture


def _read(directory: RunDirectory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not directory.summary.is_file():
        raise BadConfiguration(f"run {directory.path}: no summary.json, so it is not finished; finish it first")
    summary = json.loads(directory.summary.read_text())
    rows, elapsed = [], 0.0
    for record in directory.read_metrics():
        elapsed += sum(record["seconds"].values())
        row = {"seed": summary["seed"], "train_seconds": round(elapsed, 1)}
        rows.append({**row, **{name: record[name] for name in COLUMNS if name in record}})
    return summary, rows


def _draw(curves: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], picture: Path) -> None:
    figure, (solved, reward, heldout) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for position, (summary, rows) in enumerate(curves):
        colour, label = f"C{position}", f"seed {summary['seed']}"
        minutes = [row["train_seconds"] / 60 for row in rows]
        solved.plot(minutes, [100 * row["solved_rate"] for row in rows], color=colour, marker=".", label=label)
        reward.plot(minutes, [row["step_reward"] for row in rows], color=colour, marker=".", label=label)
        _draw_heldout(heldout, summary, position, len(curves))
    solved.set(xlabel="minutes of reinforcement", ylabel="%", title="Solved while training, sampled at T = 1")
    reward.set(xlabel="minutes of reinforcement", ylabel="reward", title="Mean step reward while training")
    heldout.set(ylabel="%", title="Solved, held-out, greedy: before, after")
    for axes in (solved, reward, heldout):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _draw_heldout(axes: Axes, summary: dict[str, Any], position: int, runs: int) -> None:
    """All tasks with their 95 % intervals, then each level; light is before, full is after."""
    names = ["all", *summary["by_level_after"]]
    width = 0.8 / (2 * runs)
    for k, (moment, alpha) in enumerate((("before", 0.35), ("after", 1.0))):
        rates = [summary[f"solved_{moment}"], *summary[f"by_level_{moment}"].values()]
        at = [i + (2 * position + k - runs + 0.5) * width for i in range(len(names))]
        label = f"seed {summary['seed']}" if moment == "after" else None
        axes.bar(at, [100 * rate for rate in rates], width, color=f"C{position}", alpha=alpha, label=label)
        low, high = summary[f"solved_{moment}_ci"]
        error = [[100 * (rates[0] - low)], [100 * (high - rates[0])]]
        axes.errorbar(at[0], 100 * rates[0], yerr=error, color="black", capsize=2, linewidth=1)
    axes.set_xticks(range(len(names)), names)
