"""`steptool bench …`: parts beside their references. Owns arguments and help texts; the measuring is elsewhere."""

from __future__ import annotations

import json
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
