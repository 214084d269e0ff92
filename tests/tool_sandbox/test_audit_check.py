"""An untouched audit log is found to be so; whatever was changed in one is found, and where."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tool_sandbox.audit_logs import KEY, NOON, entry, written
from tool_sandbox.audit import AuditLog
from tool_sandbox.audit_chain import GENESIS, Chain, Head, head_path, read_key
from tool_sandbox.audit_check import FaultKind, verify
from tool_sandbox.errors import AuditTampered, AuditUnreadable
from tool_sandbox.tools import CallStatus


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], bytes]:
    """Lines and head of a log of five records."""
    path = tmp_path_factory.mktemp("five") / "audit.jsonl"
    return written(path, 5), head_path(path).read_bytes()


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
    assert verify(tmp_path / "a", expected_head=json.loads(lines[1])["hash"]).intact


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


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_a_record_that_was_replaced_by_one_with_a_right_hash_is_found_at_its_successor(
    five: tuple[list[bytes], bytes], tmp_path: Path, replaced: int
) -> None:
    lines, _ = five
    record = {**json.loads(lines[replaced]), "status": "timeout"}
    del record["hash"], record["chain"]
    forged = Chain(None).seal(record).line
    (tmp_path / "a").write_bytes(b"".join((*lines[:replaced], forged, *lines[replaced + 1 :])))
    fault = verify(tmp_path / "a").fault
    assert fault is not None
    assert (fault.kind, fault.line) == (FaultKind.CHANGED, replaced + 2)


def test_a_cut_log_with_a_head_rewritten_without_the_key_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path, 3, KEY)
    path.write_bytes(b"".join(lines[:2]))
    Chain(None).write_head(path, Head(2, json.loads(lines[1])["hash"]))
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
