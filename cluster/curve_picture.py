"""Learning curves of many methods as pictures: a small panel for each, the default in all of them.

Consumes `curve_results.Point`s, writes a PNG. Reads nothing else and starts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cluster.curve_methods import DEFAULT
from cluster.curve_results import Estimate, Point, common_budget, mean_with_interval, rate_at, spent_tokens

_COLUMNS = 4
_PANEL_INCHES = (3.1, 2.1)
_PLACES = 200
"""On the axis of tokens, where the mean over seeds is taken."""

Curve = tuple[Sequence[float], Sequence[Estimate]]
"""Places on the axis, and the solved rate at each."""


def draw_methods(points: Sequence[Point], destination: Path) -> None:
    """One panel a method: the solved rate in training by iteration, and the held-out rates."""
    _draw_panels(points, destination, "iteration", _by_iteration, _draw_heldout)


def draw_methods_at_equal_tokens(points: Sequence[Point], destination: Path) -> None:
    """One panel a method: the solved rate in training by sampled tokens, as far as every run goes.

    Held-out rates are not in it: they were measured after whole runs, which sampled different numbers of tokens.
    """
    curve = partial(_by_tokens, budget=common_budget(points))
    _draw_panels(points, destination, "action tokens sampled for training", curve, lambda axes, own: None)


def _by_iteration(points: Sequence[Point]) -> Curve:
    iterations = sorted({point.iteration for point in points if point.solved is not None})
    rates = [[p.solved for p in points if p.iteration == i and p.solved is not None] for i in iterations]
    return iterations, [mean_with_interval(seeds) for seeds in rates]


def _by_tokens(points: Sequence[Point], budget: int) -> Curve:
    """Seeds sample different numbers of tokens in an iteration: the mean is over what they solved at equal tokens."""
    if not points:
        return (), ()
    runs = [spent_tokens([p for p in points if p.seed == seed], budget) for seed in {point.seed for point in points}]
    at = [(k + 0.5) * budget / _PLACES for k in range(_PLACES)]
    return at, [mean_with_interval([rate_at(run, place) for run in runs]) for place in at]


def _draw_panels(
    points: Sequence[Point],
    destination: Path,
    label: str,
    curve: Callable[[Sequence[Point]], Curve],
    mark: Callable[[Axes, Sequence[Point]], None],
) -> None:
    methods = list(dict.fromkeys(point.method for point in points))
    rows = math.ceil(len(methods) / _COLUMNS)
    size = (_COLUMNS * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.4)
    figure, grid = plt.subplots(
        rows, _COLUMNS, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    default = curve([point for point in points if point.method == DEFAULT])
    for method, axes in zip(methods, panels, strict=False):
        own = [point for point in points if point.method == method]
        _draw_training(axes, default, "0.6", "default, in training")
        _draw_training(axes, curve(own), "C0", "in training, sampled")
        mark(axes, own)
        axes.set_title(method.replace("_", " "), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.grid(alpha=0.3)
    for axes in panels[max(0, len(methods) - _COLUMNS) : len(methods)]:
        axes.tick_params(labelbottom=True)
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("solved, %", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.savefig(destination, dpi=110)
    plt.close(figure)


def _draw_training(axes: Axes, curve: Curve, colour: str, label: str) -> None:
    """Mean and 95 % interval over seeds."""
    at, estimates = curve
    axes.plot(at, [100 * one.value for one in estimates], color=colour, linewidth=1.3, label=label)
    low = [100 * (one.value if one.low is None else one.low) for one in estimates]
    high = [100 * (one.value if one.high is None else one.high) for one in estimates]
    axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_heldout(axes: Axes, points: Sequence[Point]) -> None:
    """Before and after: every seed a dot."""
    for name, colour, marker in (("greedy", "C3", "o"), ("sampled", "C2", "^")):
        found = [(point.iteration, getattr(point, name)) for point in points if getattr(point, name) is not None]
        at, rates = [iteration for iteration, _ in found], [100 * rate for _, rate in found]
        axes.scatter(at, rates, s=12, color=colour, marker=marker, alpha=0.7, label=f"held-out, {name}", zorder=3)
