"""`steptool audit …`: reading the audit logs of the sandboxes. Owns its arguments, help texts, table and exit codes.

Exit codes: 0 intact, 1 tampered, 2 unreadable (no such file, no permission, the key is missing).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tool_sandbox.audit_chain import read_key
from tool_sandbox.audit_check import AuditReport, verify
from tool_sandbox.errors import AuditUnreadable

TAMPERED, UNREADABLE = 1, 2

audit = typer.Typer(name="audit", help="Audit logs of tool calls.", no_args_is_help=True)


@audit.callback()
def _audit() -> None:
    """Audit logs of tool calls."""


@audit.command("verify")
def verify_log(
    file: Annotated[Path, typer.Argument(help="The log, one JSON record a line.")],
    key_file: Annotated[Path | None, typer.Option(help="The key that the log was made with, if it was.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Hash of the last record as you noted it; default: what FILE.head says.")
    ] = None,
) -> None:
    """Find a changed, missing, reordered, duplicated or torn record. Ends with 0 if there is none, with 1 if one is."""
    try:
        report = verify(file, None if key_file is None else read_key(key_file), head)
    except AuditUnreadable as error:
        _say(Console(stderr=True), f"steptool: {error}", "bold red")
        raise typer.Exit(UNREADABLE) from error
    _show(Console(), report)
    if not report.intact:
        raise typer.Exit(TAMPERED)


def _show(console: Console, report: AuditReport) -> None:
    console.print(_calls(report))
    _say(console, f"{report.records} records, {report.first_time or '-'} to {report.last_time or '-'}")
    _say(console, f"head {report.head}")
    if report.fault is not None:
        fault = report.fault
        _say(console, f"TAMPERED: {fault.kind} at line {fault.line}: {fault.detail}", "bold red")
        return
    _say(console, "intact", "bold green")
    if not report.head_known:
        _say(
            console,
            f"no {report.path.name}.head and no --head: records cut off at the end would not be missed",
            "yellow",
        )


def _calls(report: AuditReport) -> Table:
    statuses = sorted({status for _, status in report.calls})
    tools = sorted({tool for tool, _ in report.calls})
    table = Table("tool", *statuses, "calls")
    for tool in tools:
        counts = [report.calls.get((tool, status), 0) for status in statuses]
        # A tool's name is what the model wrote: no markup of its own.
        table.add_row(Text(tool), *map(str, counts), str(sum(counts)))
    return table


def _say(console: Console, message: str, style: str = "") -> None:
    console.print(Text(message, style=style), highlight=False, soft_wrap=True)
