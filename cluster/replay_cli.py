"""`steptool replay`: the command, its arguments and its table; `cluster.replay` does the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

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
            console.print(f"iteration {one.iteration} done again", highlight=False)
        console.print(_table(done))
        typer.echo(json.dumps(done[-1].as_dict()))
        expect_reproduced(done[-1], RunDirectory(run).read_config())


def _table(done: list[Replayed]) -> Table:
    table = Table("iteration", "loss", "recorded", "gradient norm", "recorded", "gap of advantages", "to the last bit")
    for one in done:
        numbers = (one.loss, one.recorded_loss, one.grad_norm, one.recorded_grad_norm)
        cells = (f"{number:.9g}" for number in numbers)
        table.add_row(str(one.iteration), *cells, f"{one.advantage_gap:.2g}", "yes" if one.exact else "no")
    return table
