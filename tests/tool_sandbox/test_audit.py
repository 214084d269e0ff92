"""The audit log: what was written is found to be so, and whatever was changed since is found too."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tool_sandbox import audit
from tool_sandbox.audit import AuditLog, audit_entry, open_audit
from tool_sandbox.audit_chain import GENESIS, Chain, head_path, read_key
from tool_sandbox.audit_check import FaultKind, verify
from tool_sandbox.config import AuditConfig, FileAudit, NoAudit
from tool_sandbox.errors import AuditFailed, AuditTampered, AuditUnreadable
from tool_sandbox.leases import SessionTable
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult

TASK = LedgerToolset().sample_task(Split.TRAIN, "L0", 0)
KEY = b"0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def entry(number: int = 0, tool: str = "price", status: CallStatus = CallStatus.OK) -> audit.AuditEntry:
    call = ToolCall(f"c{number}", tool, {"item": f"lamp {number}"})
    result = ToolResult(call.id, status, f"{number} pounds", 0.25, 0.5, IsolationLevel.NAMESPACES)
    return audit_entry("run-1", "lease-1", TASK, call, result)


def written(path: Path, count: int, key: bytes | None = None) -> list[bytes]:
    """A log of `count` records, closed; its lines."""
    with AuditLog(path, key) as log:
        for number in range(count):
            log.append(entry(number))
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], bytes]:
    """Lines and head of a log of five records."""
    path = tmp_path_factory.mktemp("five") / "audit.jsonl"
    return written(path, 5), head_path(path).read_bytes()


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


def test_arguments_nested_too_deep_for_any_encoder_are_recorded_too(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with AuditLog(tmp_path / "a") as log:
        result = ToolResult("c", CallStatus.INVALID_ARGUMENTS, "")
        log.append(audit_entry("run", "lease", TASK, ToolCall("c", "price", {"x": deep}), result))
    assert verify(tmp_path / "a").records == 1


def test_an_untouched_log_is_intact_and_counted_by_tool_and_status(tmp_path: Path) -> None:
    path, times = tmp_path / "a", iter(NOON + timedelta(seconds=second) for second in range(3))
    with AuditLog(path, now=lambda: next(times)) as log:
        for tool, status in (("price", CallStatus.OK), ("sum", CallStatus.TIMEOUT), ("price", CallStatus.OK)):
            log.append(entry(0, tool, status))
    report = verify(path)
    assert (report.intact, report.records, report.head, report.head_known) == (True, 3, log.head.hash, True)
    assert report.calls == {("price", "ok"): 2, ("sum", "timeout"): 1}
    assert (report.first_time, report.last_time) == (
        "2026-01-02T12:00:00.000000+00:00",
        "2026-01-02T12:00:02.000000+00:00",
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_a_record_is_found_at_its_line(
    data: st.DataObject, five: tuple[list[bytes], bytes], tmp_path: Path
) -> None:
    lines, head = five
    line = data.draw(st.integers(0, 4), "line")
    position = data.draw(st.integers(0, len(lines[line]) - 1), "position")
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != lines[line][position]), "byte")
    changed = bytearray(lines[line])
    changed[position] = value
    path = tmp_path / "a"
    path.write_bytes(b"".join((*lines[:line], bytes(changed), *lines[line + 1 :])))
    head_path(path).write_bytes(head)
    fault = verify(path).fault
    assert fault is not None
    assert fault.line == line + 1
    assert fault.kind in (FaultKind.CHANGED, FaultKind.TORN)


@given(dropped=st.sets(st.integers(0, 4), min_size=1))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_dropped_record_is_found(dropped: set[int], five: tuple[list[bytes], bytes], tmp_path: Path) -> None:
    lines, head = five
    path = tmp_path / "a"
    path.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in dropped))
    head_path(path).write_bytes(head)
    report = verify(path)
    assert report.fault is not None
    at_the_end = dropped == set(range(min(dropped), 5))
    assert report.fault.kind is (FaultKind.TRUNCATED if at_the_end else FaultKind.MISSING)
    assert report.fault.line == min(dropped) + 1 == report.records + 1


@given(order=st.permutations(range(5)).filter(lambda order: order != [0, 1, 2, 3, 4]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_order_is_found(order: list[int], five: tuple[list[bytes], bytes], tmp_path: Path) -> None:
    lines, head = five
    path = tmp_path / "a"
    path.write_bytes(b"".join(lines[number] for number in order))
    head_path(path).write_bytes(head)
    fault = verify(path).fault
    assert fault is not None
    assert fault.kind is FaultKind.REORDERED
    assert fault.line == 1 + next(place for place, number in enumerate(order) if place != number)


def test_a_duplicated_record_is_found_where_it_stands_again(five: tuple[list[bytes], bytes], tmp_path: Path) -> None:
    lines, _ = five
    (tmp_path / "a").write_bytes(b"".join((*lines[:4], lines[1], lines[4])))
    fault = verify(tmp_path / "a").fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.DUPLICATED, 5)


def test_without_a_head_a_cut_at_the_end_shows_only_to_who_knows_the_last_hash(
    five: tuple[list[bytes], bytes], tmp_path: Path
) -> None:
    lines, head = five
    (tmp_path / "a").write_bytes(b"".join(lines[:3]))
    report = verify(tmp_path / "a")
    assert (report.intact, report.head_known) == (True, False)
    fault = verify(tmp_path / "a", expected_head=json.loads(head)["hash"]).fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.TRUNCATED, 4)


def test_without_a_key_a_rebuilt_chain_shows_by_its_head_and_with_one_at_the_first_record(tmp_path: Path) -> None:
    def rebuilt(lines: list[bytes], chain: Chain) -> bytes:
        previous, forged = GENESIS, b""
        for line in lines:
            record = {**json.loads(line), "status": "ok", "cpu_seconds": 0.0, "previous": previous}
            del record["hash"], record["chain"]
            link = chain.seal(record)
            previous, forged = link.hash, forged + link.line
        return forged

    plain, keyed = tmp_path / "plain", tmp_path / "keyed"
    for path, key in ((plain, None), (keyed, KEY)):
        path.write_bytes(rebuilt(written(path, 3, key), Chain(None)))
    fault = verify(plain).fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.CHANGED, 3)
    fault = verify(keyed, KEY).fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.CHANGED, 1)


def test_a_cut_log_with_a_head_rewritten_without_the_key_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path, 3, KEY)
    path.write_bytes(b"".join(lines[:2]))
    shorter = {"records": 2, "hash": json.loads(lines[1])["hash"]}
    Chain(None).write_head(path, audit.Head(**shorter))
    fault = verify(path, KEY).fault
    assert fault is not None
    assert fault.kind is FaultKind.HEAD
    with pytest.raises(AuditTampered, match="its seal does not match"):
        AuditLog(path, KEY)


def test_a_keyed_log_is_unreadable_without_its_key_and_wrong_under_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path, 2, KEY)
    assert verify(path, KEY).intact
    with pytest.raises(AuditUnreadable, match="give it with --key-file"):
        verify(path)
    fault = verify(path, KEY[::-1]).fault
    assert fault is not None
    assert "or the key is not the one" in fault.detail


def test_a_key_is_read_without_white_space_and_must_be_long_enough(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert read_key(tmp_path / "key") == KEY
    (tmp_path / "key").write_bytes(b"short\n")
    with pytest.raises(AuditUnreadable, match="found 5 bytes, expected at least 16"):
        read_key(tmp_path / "key")
    with pytest.raises(AuditUnreadable, match="No such file"):
        read_key(tmp_path / "none")


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
        assert log.torn == tmp_path / f"a.torn-{len(whole)}"
        assert log.torn.read_bytes() == lines[2][:50]
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
from tests.tool_sandbox.test_audit import entry
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


@pytest.mark.parametrize("content", [b"not a log\n", b"\x00\xff\n", b"{}\n", b'{"hash":"0"}\n'])
def test_what_was_never_a_log_is_not_intact(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    fault = verify(tmp_path / "a").fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.CHANGED, 1)


def test_a_log_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(AuditUnreadable, match="name the file of an audit log"):
            verify(path)


def test_every_call_of_a_session_table_is_recorded_with_its_lease(tmp_path: Path) -> None:
    config = TypeAdapter(AuditConfig).validate_python({"kind": "file", "path": str(tmp_path / "a")})
    opened = open_audit(config, "run-9")
    assert opened is not None
    log, record = opened
    table = SessionTable(2, 60.0, record=record)
    lease = table.open(TASK)
    for number in range(3):
        table.call(lease, ToolCall(f"c{number}", "no_such_tool", {}))
    log.close()
    records = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [(each["call_id"], each["owner"], each["lease"], each["status"]) for each in records] == [
        (f"c{number}", "run-9", lease, "unknown_tool") for number in range(3)
    ]


def test_no_call_goes_unrecorded_when_the_log_cannot_take_it(tmp_path: Path) -> None:
    opened = open_audit(FileAudit(path=tmp_path / "a"), "run")
    assert opened is not None
    log, record = opened
    table = SessionTable(1, 60.0, record=record)
    lease = table.open(TASK)
    log.close()
    with pytest.raises(AuditFailed):
        table.call(lease, ToolCall("c", "no_such_tool", {}))


def test_the_configuration_is_chosen_by_kind(tmp_path: Path) -> None:
    adapter: TypeAdapter[NoAudit | FileAudit] = TypeAdapter(AuditConfig)
    assert open_audit(adapter.validate_python({"kind": "off"}), "run") is None
    (tmp_path / "key").write_bytes(KEY)
    keyed = adapter.validate_python({"kind": "file", "path": tmp_path / "a", "key_file": tmp_path / "key"})
    opened = open_audit(keyed, "run")
    assert opened is not None
    opened[0].close()
    assert verify(tmp_path / "a", KEY).intact
    with pytest.raises(ValidationError, match="path"):
        adapter.validate_python({"kind": "off", "path": "x"})
