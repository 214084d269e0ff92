"""Leases: bounded in number, given back when a trajectory dies. Time is a number that the test moves."""

from __future__ import annotations

import pytest

from tool_sandbox.errors import ForkDiverged, LeaseLost, SandboxFull, UnknownToolset
from tool_sandbox.leases import SessionTable, open_session
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.session import Session
from tool_sandbox.tasks import GroundTruth, Split, Task
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult

TASK = LedgerToolset().sample_task(Split.TRAIN, "L0", 0)
CALL = ToolCall("c", "nothing", {})


class _Counted:
    """A session that counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def call(self, call: ToolCall) -> CallOutcome:
        return CallOutcome(ToolResult(call.id, CallStatus.OK, "done"))

    def state_hash(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed += 1


class _Talking(_Counted):
    """A session whose user says two things after the prompt, and whose toolset judges for itself."""

    def __init__(self) -> None:
        super().__init__()
        self._left = ["and the lamp?", "thanks"]

    def user_turn(self) -> str | None:
        return self._left.pop(0) if self._left else None

    def verdict(self, answer: str | None) -> bool | None:
        return answer == "7" and not self._left


class _Bench:
    """A table of two sessions that live 10 seconds, with a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sessions: list[_Counted] = []
        self.table = SessionTable(2, 10.0, opener=self._open, clock=lambda: self.now)

    def _open(self, task: Task) -> Session:
        self.sessions.append(_Counted())
        return self.sessions[-1]


@pytest.fixture
def bench() -> _Bench:
    return _Bench()


def test_a_full_table_says_so_and_what_to_do(bench: _Bench) -> None:
    bench.table.open(TASK)
    bench.table.open(TASK)
    with pytest.raises(SandboxFull, match=r"all 2 sessions are open.*raise max_sessions"):
        bench.table.open(TASK)


def test_a_dead_trajectory_gives_its_session_back(bench: _Bench) -> None:
    dead = bench.table.open(TASK)
    bench.now = 4.0
    alive = bench.table.open(TASK)
    bench.now = 10.0
    bench.table.open(TASK)
    assert [session.closed for session in bench.sessions] == [1, 0, 0]
    with pytest.raises(LeaseLost, match="unused for 10 s"):
        bench.table.call(dead, CALL)
    assert bench.table.call(alive, CALL).result.content == "done"


def test_each_use_extends_the_lease(bench: _Bench) -> None:
    lease = bench.table.open(TASK)
    for moment in (9.0, 18.0, 27.0):
        bench.now = moment
        assert bench.table.call(lease, CALL).result.status is CallStatus.OK
    bench.now = 36.9
    assert bench.table.state_hash(lease) is None


def test_closing_twice_closes_once(bench: _Bench) -> None:
    lease = bench.table.open(TASK)
    bench.table.close(lease)
    bench.table.close(lease)
    assert bench.sessions[0].closed == 1
    assert len(bench.table) == 0
    with pytest.raises(LeaseLost):
        bench.table.state_hash(lease)


def test_a_task_that_cannot_be_opened_takes_no_room() -> None:
    table = SessionTable(1, 10.0, opener=open_session)
    stranger = Task("x", "nowhere", "", (), GroundTruth(), "L0", Split.TRAIN, {})
    with pytest.raises(UnknownToolset, match="'nowhere' is not registered"):
        table.open(stranger)
    assert table.open(TASK)


def test_what_a_session_cannot_do_is_nothing_that_anybody_says(bench: _Bench) -> None:
    lease = bench.table.open(TASK)
    assert bench.table.user_turn(lease) is None
    assert bench.table.verdict(lease, "7") is None


def test_a_session_that_talks_and_judges_is_asked_for_both() -> None:
    table = SessionTable(1, 10.0, opener=lambda task: _Talking())
    lease = table.open(TASK)
    assert table.verdict(lease, "7") is False
    assert [table.user_turn(lease) for _ in range(3)] == ["and the lamp?", "thanks", None]
    assert table.verdict(lease, "7") is True
    assert table.verdict(lease, "8") is False


def test_a_lost_lease_neither_talks_nor_judges(bench: _Bench) -> None:
    lease = bench.table.open(TASK)
    bench.now = 10.0
    with pytest.raises(LeaseLost, match="unused for 10 s"):
        bench.table.user_turn(lease)
    with pytest.raises(LeaseLost, match="unused for 10 s"):
        bench.table.verdict(lease, "7")


class _Adding(_Counted):
    """A session that adds, or with a fault adds something else the second time it is built."""

    built = 0

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        type(self).built += 1
        self.total = 100 if faulty and self.built > 1 else 0

    def call(self, call: ToolCall) -> CallOutcome:
        self.total += call.arguments["n"]
        return super().call(call)

    def state_hash(self) -> str | None:
        return str(self.total)


class _Copied(_Adding):
    def fork(self) -> Session:
        copy = _Copied(faulty=False)
        copy.total = self.total
        return copy


def add(n: int) -> ToolCall:
    return ToolCall("c", "add", {"n": n})


@pytest.mark.parametrize("kind", [_Adding, _Copied])
def test_a_fork_continues_from_the_state_and_leaves_the_original_alone(kind: type[_Adding]) -> None:
    table = SessionTable(3, 10.0, opener=lambda _: kind(faulty=False))
    first = table.open(TASK, "run-1")
    table.call(first, add(3))
    table.call(first, add(4))
    second = table.fork(first)
    table.call(second, add(1))
    assert (table.state_hash(first), table.state_hash(second)) == ("7", "8")
    third = table.fork(second)
    assert (table.state_hash(third), table.owner(third)) == ("8", "run-1")
    with pytest.raises(SandboxFull):
        table.fork(first)


def test_a_fork_that_comes_out_otherwise_is_closed_and_refused() -> None:
    class Faulty(_Adding):
        built = 0

    made: list[Faulty] = []

    def opener(_: Task) -> Session:
        made.append(Faulty(faulty=True))
        return made[-1]

    table = SessionTable(3, 10.0, opener=opener)
    lease = table.open(TASK)
    table.call(lease, add(3))
    with pytest.raises(ForkDiverged, match="1 repeated calls led to the state 103, expected 3"):
        table.fork(lease)
    assert [session.closed for session in made] == [0, 1]
    assert len(table) == 1


def test_a_fork_of_a_dialogue_repeats_what_the_user_said() -> None:
    class Counting(_Talking):
        def state_hash(self) -> str | None:
            return str(len(self._left))

    table = SessionTable(2, 10.0, opener=lambda _: Counting())
    lease = table.open(TASK)
    assert table.user_turn(lease) == "and the lamp?"
    assert table.user_turn(table.fork(lease)) == "thanks"


def test_whoever_opened_a_session_is_told_of_its_end_once() -> None:
    told: list[str] = []
    table = SessionTable(2, 10.0, opener=lambda _: _Counted(), closed=told.append)
    lease = table.open(TASK, "run-1")
    table.close(lease)
    table.close(lease)
    assert told == ["run-1"]
