"""`steptool bench …`: parts beside their references. Owns arguments and help texts; the measuring is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.exit_codes import exit_codes

bench = typer.Typer(
    name="bench",
    help="Measure a part against its reference in one run. The last line is one JSON object.",
    no_args_is_help=True,
)


@bench.command("loop")
def bench_loop(
    preset: Annotated[
        str, typer.Option(help="Name of a preset in deploy/presets, or path of a YAML file.")
    ] = "quickstart",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change one setting. May be repeated.")] = None,
) -> None:
    """The training loop by phase, beside bare vLLM, bare PyTorch and a plain copy. Takes ten minutes."""
    from cluster.bench import run_loop_benchmark

    with exit_codes():
        typer.echo(json.dumps(run_loop_benchmark(preset, overrides or ())))


@bench.command("sandbox")
def bench_sandbox(
    sessions: Annotated[int, typer.Option(help="Stateful sessions to hold open at once.", min=1)] = 1000,
    soak_calls: Annotated[int, typer.Option(help="Stateless calls in a row, then a look for leaks.", min=1)] = 100_000,
) -> None:
    """Tool calls in every tier, beside a bare subprocess and a bubblewrap per call. Takes twenty minutes."""
    from cluster.bench_sandbox import bench_sandbox

    with exit_codes():
        typer.echo(json.dumps(bench_sandbox(sessions, soak_calls)))


@bench.command("rewards")
def bench_rewards(
    overload_seconds: Annotated[
        float, typer.Option(help="How long callers who never pause offer several times what it can do.", min=1)
    ] = 60.0,
    items: Annotated[
        int,
        typer.Option(help="Trajectories for the judge, 30 % of them twice; two replicas are killed meanwhile.", min=10),
    ] = 10_000,
) -> None:
    """The reward service on Ray Serve: speed, overload, lost replicas, and votes that are cast once. 15 minutes.

    Speed is told as a ratio to a bare echo of the same body ([bold]throughput_ratio[/]), and as [bold]p99_ms[/] at
    80 % load. Overload and a killed replica must lose no accepted request: [bold]overload_5xx[/],
    [bold]overload_lost[/] and [bold]kill_lost[/] are 0 in a good run; what was refused got 429. One replica that may
    become two does so after [bold]second_replica_seconds[/], without losing a request ([bold]autoscaling_lost[/]).

    [bold]duplicate_judge_calls[/] are those beyond one for each vote of each different trajectory.
    [bold]judge_calls_cut_off[/] tells how many calls had no asker any more when they were answered. The killed replicas
    are the service's own; votes are asked for in the judge's deployment.
    """
    from cluster.bench_rewards import bench_rewards

    with exit_codes():
        typer.echo(json.dumps(bench_rewards(overload_seconds, items)))


@bench.command("injections")
def bench_injections(
    model: Annotated[
        str, typer.Option(help="Directory of a chat model in Hugging Face format.")
    ] = ".models/smollm2-135m",
    limit: Annotated[
        int | None, typer.Option(help="So many injections, spread over the corpus; default: all.", min=1)
    ] = None,
    votes: Annotated[int, typer.Option(help="Votes of the judge on each trajectory.", min=1, max=31)] = 3,
) -> None:
    """How much hostile tool results raise the grades of a real model, without the judge's defences and with them.

    The model is served by vLLM on loopback. The corpus is judged three times: without defences, with those that ask
    nothing of the model (texts quoted, suspicious ones withheld, grades capped), and with all of them, under which a
    weak model loses its votes and abstains.
    """
    from cluster.bench_injections import bench_injections

    with exit_codes():
        typer.echo(json.dumps(bench_injections(model, limit, votes)))


@bench.command("credit")
def bench_credit(
    batches: Annotated[
        int,
        typer.Option(help="Batches of 64 trajectories, 8 of each task; the first teach a table critic.", min=1),
    ] = 24,
) -> None:
    """Which estimator's advantages follow what a step was truly worth, on ledger world. No model; a few minutes.

    What a call was worth is known there: it is left out, with all that was learned from it, and the rest is done
    again. [bold]correlation[/] is Pearson's over the calls that have credit, [bold]correlation_of_all[/] over all of
    them, no credit counting as 0. [bold]order[/] is the share of the pairs of calls of one trajectory that stand in the
    right order: 0.5 for an estimator that gives them all one number. Intervals at 95 %, by task.
    """
    from cluster.bench_credit import bench_credit

    with exit_codes():
        typer.echo(json.dumps(bench_credit(batches)))


@bench.command("curves")
def bench_curves(
    out: Annotated[Path, typer.Option(help="Directory of the runs; what is finished there is not done again.")],
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Train with this method; may be repeated. Default: all.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each method: 0, 1 … Tasks of a seed are the same.", min=1)] = 5,
    iterations: Annotated[int, typer.Option(help="Iterations of 32 episodes in each run.", min=1)] = 12,
    workers: Annotated[int, typer.Option(help="Runs side by side; each keeps about one core busy.", min=1)] = 1,
) -> None:
    """Learning curves of every way to give credit, with the paper's ablations, on the preset tiny. Takes hours.

    Every run is a training run with equal tasks, budgets and learning rate. [bold]greedy[/], [bold]sampled[/]: share
    of the held-out tasks that is solved after it; [bold]area[/]: mean solved rate while training; each with the
    difference to the default, paired by seed. Intervals at 95 %, by Student's t over seeds.
    """
    from cluster.bench_curves import bench_curves

    with exit_codes():
        typer.echo(json.dumps(bench_curves(methods or (), seeds, iterations, out, workers)))


@bench.command("learner")
def bench_learner(
    repeats: Annotated[int, typer.Option(help="Pairs of updates, ours and the bare one.", min=1)] = 3,
) -> None:
    """The update beside bare PyTorch, shared prefixes beside none, memory beside its plan. Takes seven minutes.

    [bold]update_ratio[/] is our tokens a second over those of a plain model, `sdpa` with a dense mask and a fused
    AdamW, on the same packed rows of the preset quickstart. [bold]prefix_speedup[/] is for 8 answers of 60 tokens to
    a prompt of 250; `prefix` has other lengths and a forked tree, each beside the bound by the number of tokens.
    [bold]memory_error[/] is the worse of the presets' |planned - measured| / measured at the peak of an update, and
    [bold]phase_shares[/] is where the time of our update goes.
    """
    from cluster.bench_learner import Sizes, bench_learner

    with exit_codes():
        typer.echo(json.dumps(bench_learner(Sizes(repeats=repeats))))
