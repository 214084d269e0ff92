"""Writing the audit log: every call leaves one record, and neither a crash nor a full disk loses one silently."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.tool_sandbox.audit_logs import KEY, NOON, TASK, entry, written
from tool_sandbox import audit
from tool_sandbox.audit import AuditLog, audit_entry, open_audit
from tool_sandbox.audit_chain import GENESIS, head_path
from tool_sandbox.audit_check import FaultKind, verify
from tool_sandbox.config import AuditConfig, FileAudit, NoAudit
from tool_sandbox.errors import AuditFailed, AuditTampered, AuditUnreadable
from tool_sandbox.leases import SessionTable
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult


def test_a_record_says_who_what_and_at_what_cost(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, now=lambda: NOON) as log:
        log.append(entry(7))
        assert log.head.records == 1
    record = json.loads(path.read_text())
    # printf '{"arguments":{"item":"lamp 7"},"name":"price"}' | sha256sum; printf '7 pounds' | sha256sum
    assert record.pop("input_digest").startswith("1e9f02212ebaaff4")
    assert record.pop("output_digest").startswith("b5ff3a89a5b8c80b")
    assert record.pop("hash") == log.head.hash
    assert record == {
        "sequence": 0,
        "time": "2026-01-02T12:00:00.000000+00:00",
        "owner": "run-1",
        "lease": "lease-1",
        "task": TASK.id,
        "tool": "price",
        "call_id": "c7",
        "trust": "in_process",
        "status": "ok",
        "cpu_seconds": 0.25,
        "wall_seconds": 0.5,
        "isolation": "namespaces",
        "previous": GENESIS,
        "chain": "sha256",
    }


def test_a_tool_that_does_not_exist_and_half_a_surrogate_are_recorded_too(tmp_path: Path) -> None:
    call = ToolCall("c", "no\ud800tool", {"x": "\ud800", "when": {1}})
    with AuditLog(tmp_path / "a") as log:
        log.append(audit_entry("run", "lease", TASK, call, ToolResult("c", CallStatus.UNKNOWN_TOOL, "\ud800")))
    assert verify(tmp_path / "a").intact
    assert json.loads((tmp_path / "a").read_text())["trust"] is None


def test_a_cost_that_is_no_number_leaves_the_record_readable(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "a") as log:
        for cost in (float("nan"), float("inf"), -1.0):
            result = ToolResult("c", CallStatus.OK, "", cpu_seconds=cost)
            log.append(audit_entry("run", "lease", TASK, ToolCall("c", "price", {}), result))
    costs = [json.loads(line)["cpu_seconds"] for line in (tmp_path / "a").read_text().splitlines()]
    assert costs == [None, None, -1.0]


def test_arguments_nested_too_deep_for_any_encoder_are_recorded_too(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with AuditLog(tmp_path / "a") as log:
        result = ToolResult("c", CallStatus.INVALID_ARGUMENTS, "")
        log.append(audit_entry("run", "lease", TASK, ToolCall("c", "price", {"x": deep}), result))
    assert verify(tmp_path / "a").records == 1


def test_a_log_that_is_opened_again_continues_its_chain(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path, 2)
    with AuditLog(path) as log:
        assert (log.head.records, log.torn) == (2, None)
        log.append(entry(2))
    assert verify(path).records == 3


def test_a_line_torn_by_a_crash_is_moved_aside_and_the_chain_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a"
    lines = written(path, 3)
    whole = b"".join(lines)
    path.write_bytes(whole + lines[2][:50])
    fault = verify(path).fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.TORN, 4)
    with AuditLog(path) as log:
        aside = tmp_path / f"a.torn-{len(whole)}"
        assert log.torn == aside
        assert aside.read_bytes() == lines[2][:50]
        log.append(entry(3))
    assert "a writer died within its last line; 50 bytes moved to" in caplog.text
    report = verify(path)
    assert (report.intact, report.records) == (True, 4)


def test_a_log_whose_only_line_is_torn_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"sequence":0,')
    with AuditLog(path) as log:
        log.append(entry())
    assert verify(path).records == 1
    assert (tmp_path / "a.torn-0").read_bytes() == b'{"sequence":0,'


def test_a_last_record_longer_than_one_read_is_found_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with AuditLog(path) as log:
        log.append(entry(0, tool="x" * 200_000))
    with AuditLog(path) as log:
        assert log.head.records == 1


def test_a_killed_writer_loses_no_record_that_it_had_appended(tmp_path: Path) -> None:
    path = tmp_path / "a"
    program = f"""
import os, signal
from pathlib import Path
from tests.tool_sandbox.audit_logs import entry
from tool_sandbox.audit import AuditLog
log = AuditLog(Path({str(path)!r}), sync_seconds=3600)
for number in range(20):
    log.append(entry(number))
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, check=False)
    assert ended.returncode == -9
    with AuditLog(path) as log:
        assert log.head.records == 20
    assert verify(path).intact


@pytest.mark.parametrize("cut", [1, 2])
def test_a_log_shorter_than_its_head_is_not_continued(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(written(path, 3)[:-cut]))
    with pytest.raises(AuditTampered, match=f"found {3 - cut} records .* its head says 3"):
        AuditLog(path)


def test_a_log_whose_last_record_was_changed_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(written(path, 2)).replace(b"lease-1", b"lease-2"))
    with pytest.raises(AuditTampered, match="does not match its own hash"):
        AuditLog(path)


def test_two_writers_of_one_file_are_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "a") as first:
        with pytest.raises(AuditFailed, match="another writer holds it"):
            AuditLog(tmp_path / "a")
        first.append(entry())
    AuditLog(tmp_path / "a").close()


def test_a_closed_log_takes_no_record(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a")
    log.close()
    log.close()
    with pytest.raises(AuditFailed, match="it is closed"):
        log.append(entry())


def test_a_full_disk_is_an_error_and_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    with AuditLog(path) as log:
        log.append(entry(0))
        write, room = os.write, [100]

        def full(file: int, content: bytes) -> int:
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, content[: room.pop()])

        with monkeypatch.context() as disk:
            disk.setattr(audit.os, "write", full)
            with pytest.raises(AuditFailed, match=r"record 1 was not written \(No space left on device\)"):
                log.append(entry(1))
        assert verify(path).records == 1
        log.append(entry(1))
    report = verify(path)
    assert (report.intact, report.records) == (True, 2)


def test_records_are_synced_with_their_head_at_the_first_one_after_the_interval(tmp_path: Path) -> None:
    path, now = tmp_path / "a", [0.0]
    log = AuditLog(path, sync_seconds=5.0, clock=lambda: now[0])
    heads = []
    for now[0] in (1.0, 4.9, 5.0, 9.9, 10.0):
        log.append(entry())
        heads.append(json.loads(head_path(path).read_text())["records"] if head_path(path).exists() else 0)
    log.close()
    assert heads == [0, 0, 3, 3, 5]


def test_a_log_may_be_longer_than_the_head_that_lags_behind_it(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "a", sync_seconds=3600) as log:
        log.append(entry())
        log.sync()
        log.append(entry())
        report = verify(tmp_path / "a")
    assert (report.intact, report.records, report.head_known) == (True, 2, True)


def test_many_threads_write_one_chain(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "a") as log:
        threads = [
            threading.Thread(target=lambda: [log.append(entry(number)) for number in range(25)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = verify(tmp_path / "a")
    assert (report.intact, report.records) == (True, 200)


def test_every_call_of_a_session_table_is_recorded_with_its_lease(tmp_path: Path) -> None:
    config = TypeAdapter(AuditConfig).validate_python({"kind": "file", "path": str(tmp_path / "a")})
    log = open_audit(config)
    assert log is not None
    table = SessionTable(2, 60.0, record=log.recorder("run-9"))
    lease = table.open(TASK)
    for number in range(3):
        table.call(lease, ToolCall(f"c{number}", "no_such_tool", {}))
    log.close()
    records = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [(each["call_id"], each["owner"], each["lease"], each["status"]) for each in records] == [
        (f"c{number}", "run-9", lease, "unknown_tool") for number in range(3)
    ]


def test_no_call_goes_unrecorded_when_the_log_cannot_take_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a")
    table = SessionTable(1, 60.0, record=log.recorder("run"))
    lease = table.open(TASK)
    log.close()
    with pytest.raises(AuditFailed):
        table.call(lease, ToolCall("c", "no_such_tool", {}))


def test_the_configuration_is_chosen_by_kind(tmp_path: Path) -> None:
    adapter: TypeAdapter[NoAudit | FileAudit] = TypeAdapter(AuditConfig)
    assert open_audit(adapter.validate_python({"kind": "off"})) is None
    (tmp_path / "key").write_bytes(KEY)
    keyed = adapter.validate_python({"kind": "file", "path": tmp_path / "a", "key_file": tmp_path / "key"})
    log = open_audit(keyed)
    assert log is not None
    with log:
        log.append(entry())
    assert verify(tmp_path / "a", KEY).records == 1
    with pytest.raises(AuditUnreadable):
        verify(tmp_path / "a")
    with pytest.raises(ValidationError, match="path"):
        adapter.validate_python({"kind": "off", "path": "x"})
