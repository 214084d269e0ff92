"""`steptool tasks`: own tasks from files. Owns arguments and the table; the checking is the toolset's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.errors import BadConfiguration
from tool_sandbox.errors import SandboxError
from tool_sandbox.tasks import GroundTruth, Split, Task

tasks = typer.Typer(name="tasks", help="Own tasks from JSONL files.", no_args_is_help=True)


@tasks.callback()
def _group() -> None:
    """Keep `check` a command of its own: Typer would fold a group of one into its parent."""


@tasks.command()
def check(file: Annotated[Path, typer.Argument(help="A file with one task a line.")]) -> None:
    """Check a file of tasks: form, tools, states, gold calls, checkers. Prints how many it holds of which kind."""
    from tool_sandbox.jsonl import JsonlToolset

    try:
        toolset = JsonlToolset(file)
    except SandboxError as error:
        Console(stderr=True).print(Text(f"steptool: {error}", style="bold red"), highlight=False, soft_wrap=True)
        raise typer.Exit(BadConfiguration.exit_code) from error
    Console().print(_table(toolset.tasks))
    levels = ",".join(toolset.levels())
    typer.echo(f"use it with --set task.suite={toolset.name} --set 'task.levels=[{levels}]'")


def _table(found: Sequence[Task]) -> Table:
    """A row for each level: tasks by split, tools offered at most, and what decides about the verdict."""
    table = Table("level", *(split.value for split in _splits(found)), "tools", "ground truth")
    for level in dict.fromkeys(task.level for task in found):
        mine = [task for task in found if task.level == level]
        splits = Counter(task.split for task in mine)
        truths = Counter(_truth(task) for task in mine)
        table.add_row(
            level,
            *(str(splits[split]) for split in _splits(found)),
            str(max(len(task.tools) for task in mine)),
            ", ".join(f"{count} {kind}" for kind, count in truths.items()),
        )
    return table


def _splits(found: Sequence[Task]) -> list[Split]:
    present = {task.split for task in found}
    return [split for split in Split if split in present]


def _truth(task: Task) -> str:
    truth: GroundTruth = task.ground_truth
    if truth.answer is not None:
        return "answer"
    if truth.state_hash is not None:
        return "state"
    return "checker" if "checker" in task.payload else "calls"
