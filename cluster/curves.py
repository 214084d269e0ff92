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
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for position, (summary, rows) in enumerate(curves):
        label = f"seed {summary['seed']}"
        minutes = [row["train_seconds"] / 60 for row in rows]
        (line,) = left.plot(minutes, [row["step_reward"] for row in rows], label=label)
        for x, moment in ((0, "before"), (1, "after")):
            low, high = summary[f"solved_{moment}_ci"]
            rate = summary[f"solved_{moment}"]
            right.errorbar(
                x + 0.06 * (position - 1),
                100 * rate,
                yerr=[[100 * (rate - low)], [100 * (high - rate)]],
                fmt="o",
                color=line.get_color(),
                label=label if x == 0 else None,
            )
    left.set(xlabel="minutes of reinforcement", ylabel="mean step reward, sampled", title="While it trains")
    right.set(xticks=[0, 1], xticklabels=["before", "after"], xlim=(-0.5, 1.5), ylabel="solved, greedy, %")
    right.set_title("Held-out tasks, 95 % intervals")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=150)
    plt.close(figure)
