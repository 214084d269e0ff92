"""`steptool sandbox …`: whether the sandboxes of this machine hold. Owns arguments, the tables and exit codes.

Exit codes of `attack`: 0 nothing escaped, 1 something did or could not be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from cluster.exit_codes import exit_codes
from tool_sandbox.attacks import Attack, Fixtures, Outcome, all_attacks
from tool_sandbox.attacks.campaign import Attempt, attempts
from tool_sandbox.config import MIB, LanguageConfig, SandboxConfig
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import reach
from tool_sandbox.isolation.python_tool import NOTEBOOK, PYTHON
from tool_sandbox.isolation.stateful import StatefulSandbox
from tool_sandbox.language import CODE, LanguageSandbox
from tool_sandbox.sandbox import Sandbox
from tool_sandbox.tools import IsolationLevel

ESCAPED = 1

sandbox = typer.Typer(name="sandbox", help="The sandboxes of this machine.", no_args_is_help=True)


@sandbox.callback()
def _sandbox() -> None:
    """The sandboxes of this machine."""


@sandbox.command()
def attack(
    level: Annotated[
        list[IsolationLevel] | None,
        typer.Option(help="Level to attack; default: every one that this machine reaches. May be repeated."),
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="One attack by name. May be repeated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="List every attempt, not only what did not hold.")] = True,
) -> None:
    """Try the attack corpus against every tier that runs a model's code: attempt, tier, and what held it.

    Ends with 0 if nothing escaped. Takes a few minutes.
    """
    console = Console()
    with exit_codes():
        found = _campaign(level or _levels(), _chosen(name or ()), console)
    console.print(_attempts(found if every else [one for one in found if one.outcome is not Outcome.HELD]))
    console.print(_summary(found))
    if any(one.outcome is not Outcome.HELD for one in found):
        raise typer.Exit(ESCAPED)


def _levels() -> list[IsolationLevel]:
    strongest = reach(SandboxConfig()).level
    return [level for level in (strongest, IsolationLevel.LANDLOCK) if level is not IsolationLevel.NONE]


def _chosen(names: Sequence[str]) -> list[Attack]:
    known = {attack.name: attack for attack in all_attacks()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"there is no attack {', '.join(unknown)}", param_hint="--name")
    return [known[name] for name in names] or list(known.values())


def _campaign(levels: Sequence[IsolationLevel], attacks: Sequence[Attack], console: Console) -> list[Attempt]:
    config = SandboxConfig(cpu_seconds=1, wall_seconds=1.5, workers=1, memory_bytes=256 * MIB)
    found: list[Attempt] = []
    with ExitStack() as stack:
        language = LanguageSandbox(LanguageConfig(cpu_seconds=1, wall_seconds=1.5), [CODE])
        stack.callback(language.close)
        tiers: list[Sandbox] = [language]
        tiers += [tier for level in dict.fromkeys(levels) for tier in _tiers(config, level, stack)]
        fixtures = stack.enter_context(Fixtures(uid=config.uid))
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        for tier in tiers:
            description = f"{tier.trust.value} behind {tier.level.value}"
            found += progress.track(attempts(tier, attacks, fixtures), len(attacks), description=description)
    return found


def _tiers(config: SandboxConfig, level: IsolationLevel, stack: ExitStack) -> list[Sandbox]:
    tiers: list[Sandbox] = [IsolatedSandbox([PYTHON], config, level), StatefulSandbox([NOTEBOOK], config, level)]
    for tier in tiers:
        stack.callback(tier.close)
    return tiers


def _attempts(found: Sequence[Attempt]) -> Table:
    """One row for each attack, one column for each tier: what held it."""
    tiers = list(dict.fromkeys((one.trust, one.level) for one in found))
    table = Table("theme", "attack", *(f"{trust.value}\n{level.value}" for trust, level in tiers), title="Attacks")
    rows: dict[str, dict[object, Attempt]] = {}
    for one in found:
        rows.setdefault(one.attack, {})[one.trust, one.level] = one
    for name, by_tier in rows.items():
        cells = [_cell(by_tier[tier]) if tier in by_tier else Text("") for tier in tiers]
        table.add_row(next(iter(by_tier.values())).theme.value, name, *cells)
    return table


def _cell(one: Attempt) -> Text:
    style = {Outcome.HELD: "green", Outcome.ESCAPED: "bold red", Outcome.INCONCLUSIVE: "yellow"}[one.outcome]
    return Text(one.by if one.outcome is Outcome.HELD else f"{one.outcome.value}: {one.by}", style=style)


def _summary(found: Sequence[Attempt]) -> Table:
    table = Table("tier", "level", "attacks", "held", "escaped", "unclear", title="In all")
    for trust, level in dict.fromkeys((one.trust, one.level) for one in found):
        outcomes = [one.outcome for one in found if (one.trust, one.level) == (trust, level)]
        counts = [outcomes.count(outcome) for outcome in (Outcome.HELD, Outcome.ESCAPED, Outcome.INCONCLUSIVE)]
        table.add_row(trust.value, level.value, str(len(outcomes)), *map(str, counts))
    return table
