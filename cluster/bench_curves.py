"""`steptool bench curves`: train with every method over several seeds, and lay the curves side by side.

Owns the runs: who trains what, in which order, and what is kept between two of them. Every run is a real one, by
`cluster.trainer.Trainer` over vLLM and DeepSpeed. The processes stay up from run to run, since starting them costs more
than a run: the learner builds its engine anew, and vLLM gets the start weights by a publish. Only for another recipe of
rewards are all started again: no client of the reward service puts up with a changed one. What is compared is in
`curve_methods`, what is made of it in `curve_results` and `curve_picture`.

```
OUT/seed-0/step_gae/       one run directory for each seed and method, without its checkpoints
OUT/seed-0/step_gae/log    what a person would have seen
OUT/curves.csv, .md, .png  every point, the table, the picture by iteration
OUT/curves-tokens.png      the picture by sampled tokens, as far as every run goes
```
"""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from cluster.config import RunConfig
from cluster.curve_methods import chosen_methods, method_config
from cluster.curve_picture import draw_methods, draw_methods_at_equal_tokens
from cluster.curve_results import results_table, summarise_methods, write_points
from cluster.display import LineDisplay
from cluster.errors import BadConfiguration, RunError, Stopped
from cluster.interrupt import StopFlag, stop_on_signals
from cluster.launch import check_inputs, ray_session
from cluster.parts import Parts, start_parts
from cluster.run_directory import RunDirectory
from cluster.trainer import Trainer

_POLL_SECONDS = 1.0
_RUN_SECONDS = 3600.0
"""Longest wait for any run to be finished."""
_STOP_SECONDS = 120.0
_DONE = "done"
_LOG_COLUMNS = 200


@dataclass(frozen=True, slots=True)
class Run:
    """One method with one seed."""

    method: str
    seed: int
    iterations: int
    root: Path

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.root / f"seed-{self.seed}" / self.method)

    @property
    def config(self) -> RunConfig:
        return method_config(self.method, self.seed, self.iterations)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do.

        Raises:
            BadConfiguration: it was finished with other settings.
        """
        if not self.directory.summary.is_file():
            return False
        if self.directory.read_config() != self.config:
            raise BadConfiguration(
                f"run {self.directory.path}: it was made with other settings than those of method {self.method!r}, "
                f"{self.iterations} iterations; choose another --out, or remove that directory"
            )
        return True


def bench_curves(names: Sequence[str], seeds: int, iterations: int, out: Path, workers: int) -> Mapping[str, Any]:
    """Do every run that is not finished under `out`, then write data, table and pictures there.

    The table also goes to standard error.

    `names`: methods; none stands for all. Seeds are 0 … `seeds` − 1.

    Raises:
        BadConfiguration: an unknown method, or `out` holds runs with other settings.
        RunError: a worker ended before its runs did.
        Stopped: a signal came; the runs that are finished are not done again.
    """
    methods, out = chosen_methods(names), out.resolve()
    runs = planned(methods, seeds, iterations, out)
    console = Console(stderr=True)
    _work_off([run for run in runs if not run.is_finished], workers, console)
    points = write_points(out / "curves.csv", [(run.method, run.seed, run.directory) for run in runs])
    draw_methods(points, out / "curves.png")
    draw_methods_at_equal_tokens(points, out / "curves-tokens.png")
    summaries = summarise_methods(points)
    table = results_table(summaries)
    (out / "curves.md").write_text(table)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    return {
        "methods": {name: summary.as_dict() for name, summary in summaries.items()},
        "seeds": seeds,
        "iterations": iterations,
        "heldout_tasks": runs[0].config.evaluation.tasks,
        "episodes": runs[0].config.task.trajectories_per_iteration * iterations,
        "out": str(out),
    }


def planned(methods: Sequence[str], seeds: int, iterations: int, out: Path) -> list[Run]:
    """All runs: every method of a seed before the next seed, so that whole seeds are finished early.

    Methods with a recipe of rewards of their own come after all seeds of the others.
    """
    recipes = {method: method_config(method, 0, iterations).rewards for method in methods}
    order = list(recipes.values())
    runs = [Run(method, seed, iterations, out) for seed in range(seeds) for method in methods]
    return sorted(runs, key=lambda run: order.index(recipes[run.method]))


def _work_off(runs: Sequence[Run], workers: int, console: Console) -> None:
    if not runs:
        return
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[tuple[Run, str]] = context.Queue()
    with (
        stop_on_signals() as stop,
        _started(context, [runs[i::workers] for i in range(min(workers, len(runs)))], told) as processes,
        Progress(console=console) as progress,
    ):
        bar = progress.add_task("runs", total=len(runs))
        for run, outcome in itertools.islice(_news(told, processes, stop), len(runs)):
            if outcome != _DONE:
                raise RunError(f"run {run.directory.path}: {outcome}; see {run.directory.path / 'log'}")
            progress.update(bar, advance=1, description=f"{run.method}, seed {run.seed}")


@contextmanager
def _started(
    context: SpawnContext, shares: Sequence[Sequence[Run]], told: multiprocessing.Queue[tuple[Run, str]]
) -> Iterator[list[SpawnProcess]]:
    """A process for each share; they are asked to stop, then ended, when this is left early."""
    processes = [context.Process(target=train_all, args=(share, told)) for share in shares]
    for process in processes:
        process.start()
    try:
        yield processes
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join(_STOP_SECONDS)
            process.kill()


def _news(
    told: multiprocessing.Queue[tuple[Run, str]], processes: Sequence[SpawnProcess], stop: StopFlag
) -> Iterator[tuple[Run, str]]:
    """What the workers tell, without end.

    Raises:
        RunError: one of them is gone, or none has told anything for too long.
    """
    deadline = time.monotonic() + _RUN_SECONDS
    while True:
        stop.check()
        failed = [process.exitcode for process in processes if process.exitcode]
        try:
            yield told.get(timeout=_POLL_SECONDS)
            deadline = time.monotonic() + _RUN_SECONDS
        except queue.Empty:
            if failed:
                raise RunError(
                    f"bench curves: a worker ended with exit code {failed[0]}; run it again to go on"
                ) from None
            if time.monotonic() > deadline:
                raise RunError(f"bench curves: no run was finished for {_RUN_SECONDS:g} s; see the logs") from None


def train_all(runs: Sequence[Run], told: multiprocessing.Queue[tuple[Run, str]]) -> None:
    """The life of a worker: a Ray of its own, and one set of parts for all runs in a row that can use it."""
    run = runs[0]
    try:
        with ray_session(), stop_on_signals() as stop:
            for _, group in itertools.groupby(runs, lambda one: one.config.rewards):
                alike = list(group)
                with start_parts(check_inputs(alike[0].config), lambda _: None) as parts:
                    for run in alike:
                        train_one(run, parts, stop)
                        told.put((run, _DONE))
    except Stopped as error:
        # Whoever started this process was asked to stop as well, and says so.
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        told.put((run, f"{type(error).__name__}: {error}"))
        raise


def train_one(run: Run, parts: Parts, stop: StopFlag) -> None:
    """One run from its start: the learner begins anew, and the engine gets the start weights by the first publish."""
    directory = run.directory
    shutil.rmtree(directory.path, ignore_errors=True)
    directory.create(run.config)
    reuse_evaluation(run)
    parts.learner.restart(run.config.credit)
    with (directory.path / "log").open("w") as log:
        display = LineDisplay(Console(file=log, width=_LOG_COLUMNS))
        outcome = Trainer(check_inputs(run.config), directory, parts, display, stop).run()
    directory.write_summary({"method": run.method, "seed": run.seed, "iterations": outcome.state.iteration})
    shutil.rmtree(directory.checkpoints)


def reuse_evaluation(run: Run) -> None:
    """Take the evaluation before training from another method of the seed: same weights, tasks and sampling seeds."""
    for path in sorted(run.directory.path.parent.glob("*/evaluations.jsonl")):
        other = RunDirectory(path.parent)
        greedy = other.evaluation("before")
        if greedy is not None:
            run.directory.append_evaluation("before", greedy, other.evaluation("before", "sampled"), 0.0)
            return
