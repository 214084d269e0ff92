"""Audit logs for the tests: entries and files that look like real ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tool_sandbox.audit import AuditEntry, AuditLog, audit_entry
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult

TASK = LedgerToolset().sample_task(Split.TRAIN, "L0", 0)
KEY = b"0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def entry(number: int = 0, tool: str = "price", status: CallStatus = CallStatus.OK) -> AuditEntry:
    call = ToolCall(f"c{number}", tool, {"item": f"lamp {number}"})
    result = ToolResult(call.id, status, f"{number} pounds", 0.25, 0.5, IsolationLevel.NAMESPACES)
    return audit_entry("run-1", "lease-1", TASK, call, result)


def written(path: Path, count: int, key: bytes | None = None) -> list[bytes]:
    """A log of `count` records, closed; its lines."""
    with AuditLog(path, key) as log:
        for number in range(count):
            log.append(entry(number))
    return path.read_bytes().splitlines(keepends=True)
