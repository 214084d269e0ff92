"""What finished runs of many methods and seeds amount to: points, and from them one line of numbers a method.

Consumes run directories; produces `Point`s, the CSV that holds them all, and `Summary`s. The statistics are pure.
Seeds are the samples: the same seed of two methods has the same tasks, so methods are compared seed by seed. Methods
share iterations and not tokens; the area to a token budget compares them at equal tokens.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

from cluster.curve_methods import DEFAULT
from cluster.run_directory import RunDirectory

_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""The 97.5 % point of Student's t with 1, 2 … degrees of freedom; the last one serves for more, a little wide."""


@dataclass(frozen=True, slots=True)
class Point:
    """One iteration of one run; iteration 0 is the start, which has no training episodes."""

    method: str
    seed: int
    iteration: int
    solved: float | None
    """Share of the sampled training episodes that were solved; None at the start."""
    steps: float | None
    """Mean steps of a training episode."""
    tokens: int
    """Action tokens sampled for training in this iteration, continuations among them."""
    greedy: float | None
    """Share of the held-out tasks solved greedily after it; None where it was not measured."""
    sampled: float | None
    """The same at the training temperature."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and its 95 % interval by Student's t; one seed has no interval."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """In per cent, without the sign."""
        mean = f"{100 * self.value:.1f}"
        return (
            mean if self.low is None or self.high is None else f"{mean} [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over its seeds. Rates are shares of 1."""

    seeds: int
    greedy_before: Estimate
    greedy: Estimate
    sampled_before: Estimate
    sampled: Estimate
    area: Estimate
    """Mean over the iterations of the solved rate in training: the area under the curve."""
    tokens: float
    """Action tokens sampled for training in a run, mean over seeds."""
    token_budget: int
    """The smallest total of tokens that any run of any method has."""
    area_to_budget: Estimate
    """Mean over these first tokens of the solved rate of the iteration that sampled them."""
    greedy_gap: Estimate
    """After training, this method less the default, seed by seed."""
    sampled_gap: Estimate
    area_gap: Estimate
    area_to_budget_gap: Estimate

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_points(destination: Path, runs: Sequence[tuple[str, int, RunDirectory]]) -> list[Point]:
    """Every point of every run, one row each; `runs` gives method, seed and directory."""
    points = [point for method, seed, directory in runs for point in _points(method, seed, directory)]
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Point)])
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)
    return points


def summarise_methods(points: Sequence[Point]) -> dict[str, Summary]:
    """One summary a method, in the order in which methods first come.

    Raises:
        ValueError: a run lacks an evaluation, or the default lacks a seed that another method has.
    """
    methods, budget = dict.fromkeys(point.method for point in points), common_budget(points)
    runs = {method: _by_seed([point for point in points if point.method == method], budget) for method in methods}
    return {method: _summary(runs[method], runs.get(DEFAULT, runs[method]), budget) for method in methods}


def common_budget(points: Sequence[Point]) -> int:
    """The smallest total of tokens of any run: every method has spent as much with every seed."""
    totals: dict[tuple[str, int], int] = defaultdict(int)
    for point in points:
        totals[point.method, point.seed] += point.tokens
    return min(totals.values())


def spent_tokens(run: Sequence[Point], budget: int) -> list[tuple[float, int]]:
    """(solved rate, tokens) of each iteration of a run until `budget` tokens are spent.

    The policy changes only between iterations, so an iteration that the budget cuts counts with the rate of the whole
    of it, for as many tokens as were left.
    """
    parts, left = list[tuple[float, int]](), budget
    for point in run:
        if point.solved is not None and left:
            parts.append((point.solved, min(point.tokens, left)))
            left -= parts[-1][1]
    return parts


def rate_at(spent: Sequence[tuple[float, int]], place: float) -> float:
    """The solved rate of the iteration that sampled the token at `place`, which lies within what was spent."""
    ends = accumulate(tokens for _, tokens in spent)
    return next(rate for (rate, _), end in zip(spent, ends, strict=True) if place <= end)


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """Mean ± t₀.₉₇₅(n − 1)·s/√n, where s is the sample's deviation; `values` of independent seeds."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _T_975[min(n - 1, len(_T_975)) - 1] * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half)


def results_table(summaries: Mapping[str, Summary]) -> str:
    """In Markdown, in per cent; before any training first."""
    start = next(iter(summaries.values()))
    titles = _titles(start.token_budget)
    rows = [
        (
            "`start`",
            *(str(rate) for rate in (start.greedy_before, start.sampled_before)),
            *("",) * (len(titles) - 3),
        ),
        *((f"`{name}`", *_cells(name, summary)) for name, summary in summaries.items()),
    ]
    lines = (titles, ("---",) * len(titles), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _titles(budget: int) -> tuple[str, ...]:
    measured = ("greedy", "sampled", "area", f"area to {budget:,} tokens")
    return ("method", *measured, *(f"{name} − default" for name in measured), "tokens")


def _cells(name: str, one: Summary) -> tuple[str, ...]:
    rates = (one.greedy, one.sampled, one.area, one.area_to_budget)
    gaps = (one.greedy_gap, one.sampled_gap, one.area_gap, one.area_to_budget_gap)
    return (*map(str, rates), *("" if name == DEFAULT else str(gap) for gap in gaps), f"{one.tokens:,.0f}")


def _points(method: str, seed: int, directory: RunDirectory) -> list[Point]:
    records = list(directory.read_metrics())
    before, after = _heldout(directory, "before"), _heldout(directory, "after")
    start = Point(method, seed, 0, None, None, 0, *before)
    return [
        start,
        *(
            Point(
                method,
                seed,
                record["iteration"],
                record["solved_rate"],
                record["steps"],
                record["sampled_tokens"],
                *(after if record is records[-1] else (None, None)),
            )
            for record in records
        ),
    ]


def _heldout(directory: RunDirectory, label: str) -> tuple[float | None, float | None]:
    found = (directory.evaluation(label), directory.evaluation(label, "sampled"))
    greedy, sampled = (one.solved if one else None for one in found)
    return greedy, sampled


@dataclass(frozen=True, slots=True)
class _Run:
    greedy_before: float
    greedy: float
    sampled_before: float
    sampled: float
    area: float
    area_to_budget: float
    tokens: int


def _by_seed(points: Sequence[Point], budget: int) -> dict[int, _Run]:
    seeds = dict.fromkeys(point.seed for point in points)
    return {seed: _run([point for point in points if point.seed == seed], budget) for seed in seeds}


def _run(points: Sequence[Point], budget: int) -> _Run:
    first, last = points[0], points[-1]
    rates = [point.solved for point in points if point.solved is not None]
    return _Run(
        greedy_before=_measured(first, first.greedy),
        greedy=_measured(last, last.greedy),
        sampled_before=_measured(first, first.sampled),
        sampled=_measured(last, last.sampled),
        area=math.fsum(rates) / len(rates),
        area_to_budget=math.fsum(rate * tokens for rate, tokens in spent_tokens(points, budget)) / budget,
        tokens=sum(point.tokens for point in points),
    )


def _measured(point: Point, rate: float | None) -> float:
    if rate is None:
        place = f"method {point.method!r}, seed {point.seed}, iteration {point.iteration}"
        raise ValueError(f"{place}: no held-out rate, expected one before and one after training; finish the run")
    return rate


def _summary(runs: Mapping[int, _Run], default: Mapping[int, _Run], budget: int) -> Summary:
    missing = sorted(runs.keys() - default.keys())
    if missing:
        raise ValueError(f"method {DEFAULT!r}: no runs with the seeds {missing}, which others have; run it with them")
    mine, theirs = list(runs.values()), [default[seed] for seed in runs]
    pairs = list(zip(mine, theirs, strict=True))
    return Summary(
        seeds=len(mine),
        greedy_before=mean_with_interval([run.greedy_before for run in mine]),
        greedy=mean_with_interval([run.greedy for run in mine]),
        sampled_before=mean_with_interval([run.sampled_before for run in mine]),
        sampled=mean_with_interval([run.sampled for run in mine]),
        area=mean_with_interval([run.area for run in mine]),
        tokens=sum(run.tokens for run in mine) / len(mine),
        token_budget=budget,
        area_to_budget=mean_with_interval([run.area_to_budget for run in mine]),
        greedy_gap=mean_with_interval([run.greedy - other.greedy for run, other in pairs]),
        sampled_gap=mean_with_interval([run.sampled - other.sampled for run, other in pairs]),
        area_gap=mean_with_interval([run.area - other.area for run, other in pairs]),
        area_to_budget_gap=mean_with_interval([run.area_to_budget - other.area_to_budget for run, other in pairs]),
    )
