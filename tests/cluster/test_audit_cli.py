from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app
from tool_sandbox.audit import AuditLog, audit_entry
from tool_sandbox.audit_chain import head_path
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult

TASK = LedgerToolset().sample_task(Split.TRAIN, "L0", 0)
KEY = b"0123456789abcdef0123456789abcdef"


def steptool(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two calls of price, one of them refused, and one of a tool whose name is markup."""
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        for tool, status in (
            ("price", CallStatus.OK),
            ("price", CallStatus.TOOL_ERROR),
            ("[red]sum", CallStatus.OK),
        ):
            audit.append(audit_entry("run", "lease", TASK, ToolCall("c", tool, {}), ToolResult("c", status, "")))
    return tmp_path / "audit.jsonl"


def row(result: Result, tool: str) -> list[str]:
    """The cells of one tool's row."""
    line = next(line for line in result.output.splitlines() if tool in line)
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_an_intact_log_ends_with_0_and_counts_calls_by_tool_and_status(log: Path) -> None:
    result = steptool("audit", "verify", str(log))
    assert result.exit_code == 0
    assert row(result, "price") == ["price", "1", "1", "2"]
    assert row(result, "sum") == ["[red]sum", "1", "0", "1"]
    assert "3 records, " in result.output
    assert "intact" in result.output


def test_a_changed_log_ends_with_1_and_the_first_line_that_is_wrong(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join((lines[0], lines[1].replace(b"tool_error", b"ok"), lines[2])))
    result = steptool("audit", "verify", str(log))
    assert result.exit_code == 1
    assert "TAMPERED: changed at line 2" in result.output


def test_a_missing_log_and_a_missing_key_end_with_2(tmp_path: Path) -> None:
    missing = steptool("audit", "verify", str(tmp_path / "none"))
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)
    with AuditLog(tmp_path / "keyed", KEY) as audit:
        audit.append(audit_entry("run", "lease", TASK, ToolCall("c", "x", {}), ToolResult("c", CallStatus.OK, "")))
    assert steptool("audit", "verify", str(tmp_path / "keyed")).exit_code == 2
    (tmp_path / "key").write_bytes(KEY)
    assert steptool("audit", "verify", str(tmp_path / "keyed"), "--key-file", str(tmp_path / "key")).exit_code == 0


def test_who_has_no_head_is_told_what_cannot_be_seen(log: Path) -> None:
    head_path(log).unlink()
    result = steptool("audit", "verify", str(log))
    assert result.exit_code == 0
    assert "records cut off at the end would not be missed" in result.output
    assert steptool("audit", "verify", str(log), "--head", "0" * 64).exit_code == 1
