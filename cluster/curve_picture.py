"""Learning curves of many methods as one picture: a small panel for each, the default in all of them.

Consumes `curve_results.Point`s, writes a PNG. Reads nothing else and starts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cluster.curve_methods import DEFAULT
from cluster.curve_results import Point, mean_with_interval

_COLUMNS = 4
_PANEL_INCHES = (3.1, 2.1)


def draw_methods(points: Sequence[Point], destination: Path) -> None:
    """One panel a method: the solved rate in training, mean and 95 % interval over seeds, and the held-out rates."""
    methods = list(dict.fromkeys(point.method for point in points))
    rows = math.ceil(len(methods) / _COLUMNS)
    size = (_COLUMNS * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.4)
    figure, grid = plt.subplots(
        rows, _COLUMNS, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    for method, axes in zip(methods, panels, strict=False):
        _draw_training(axes, [point for point in points if point.method == DEFAULT], "0.6", "default, in training")
        own = [point for point in points if point.method == method]
        _draw_training(axes, own, "C0", "in training, sampled")
        _draw_heldout(axes, own)
        axes.set_title(method.replace("_", " "), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for axes in panels[max(0, len(methods) - _COLUMNS) : len(methods)]:
        axes.tick_params(labelbottom=True)
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    figure.supxlabel("iteration", fontsize=9)
    figure.supylabel("solved, %", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.savefig(destination, dpi=110)
    plt.close(figure)


def _draw_training(axes: Axes, points: Sequence[Point], colour: str, label: str) -> None:
    iterations = sorted({point.iteration for point in points if point.solved is not None})
    estimates = [
        mean_with_interval([100 * p.solved for p in points if p.iteration == i and p.solved is not None])
        for i in iterations
    ]
    axes.plot(iterations, [one.value for one in estimates], color=colour, linewidth=1.3, label=label)
    low = [one.value if one.low is None else one.low for one in estimates]
    high = [one.value if one.high is None else one.high for one in estimates]
    axes.fill_between(iterations, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_heldout(axes: Axes, points: Sequence[Point]) -> None:
    """Before and after: every seed a dot."""
    for name, colour, marker in (("greedy", "C3", "o"), ("sampled", "C2", "^")):
        found = [(point.iteration, getattr(point, name)) for point in points if getattr(point, name) is not None]
        at, rates = [iteration for iteration, _ in found], [100 * rate for _, rate in found]
        axes.scatter(at, rates, s=12, color=colour, marker=marker, alpha=0.7, label=f"held-out, {name}", zorder=3)
