"""`steptool replay`: the command, its arguments and what it prints; `cluster.replay` does the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cluster.exit_codes import exit_codes

if TYPE_CHECKING:
    from cluster.replay import Replayed


def replay(
    run: Annotated[Path, typer.Argument(help="Directory of a run, e.g. runs/latest.")],
    iteration: Annotated[int, typer.Option(help="Which update to do again.", min=1)],
) -> None:
    """Do an update of a recorded run again, from the checkpoint before it, and compare loss and gradient norm.

    A float32 run on a CPU must come out equal to the last bit, else the command ends with 1. The last line printed is
    one JSON object.
    """
    from cluster.replay import expect_reproduced, started_learner
    from cluster.replay import replay as go_through
    from cluster.run_directory import RunDirectory

    console = Console()
    with exit_codes():
        done: list[Replayed] = []
        for one in go_through(run, iteration, lambda text: console.print(f"warning: {text}"), started_learner):
            done.append(one)
            console.print(_told(one), highlight=False, soft_wrap=True)
        typer.echo(json.dumps(done[-1].as_dict()))
        expect_reproduced(done[-1], RunDirectory(run).read_config())


def _told(one: Replayed) -> str:
    losses = f"loss {one.loss:.9g}, recorded {one.recorded_loss:.9g}"
    norms = f"gradient norm {one.grad_norm:.9g}, recorded {one.recorded_grad_norm:.9g}"
    verdict = "equal to the last bit" if one.exact else f"not equal; gap of advantages {one.advantage_gap:.2g}"
    return f"iteration {one.iteration}: {losses}; {norms}; {verdict}"
