"""Tier T0: sessions with a state of their own, forked by value."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
from pydantic import BaseModel

from tool_sandbox.errors import ForkDiverged, InvalidTool, LeaseLost, SandboxUnavailable
from tool_sandbox.functions import SessionState, tool
from tool_sandbox.in_process import InProcessSandbox
from tool_sandbox.sandbox import Sandbox, SandboxSession, Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, Trust


@dataclass
class Basket(SessionState):
    fruit: dict[str, int] = field(default_factory=dict)


class Purse(SessionState, BaseModel):
    coins: int = 3


@dataclass
class Locked(SessionState):
    lock: object = field(default_factory=threading.Lock)


@dataclass
class Forgetful(SessionState):
    fruit: int = 0

    def __reduce__(self) -> tuple[type[Forgetful], tuple[()]]:
        return (Forgetful, ())


@tool(read_only=False)
def put(basket: Basket, name: str, count: int = 1) -> int:
    """Put fruit into the basket."""
    basket.fruit[name] = basket.fruit.get(name, 0) + count
    return basket.fruit[name]


@tool
def count(basket: Basket) -> int:
    """Count all fruit."""
    return sum(basket.fruit.values())


@tool(read_only=False)
def spend(purse: Purse) -> int:
    """Spend a coin."""
    purse.coins -= 1
    return purse.coins


@tool
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


@tool(trust=Trust.ISOLATED)
def wild(code: str) -> str:
    """Run code."""
    return code


@tool(read_only=False)
def forget(state: Forgetful) -> int:
    """Change what pickling loses."""
    state.fruit += 1
    return state.fruit


@tool
def peek(state: Locked) -> str:
    """Look at a lock."""
    return str(state.lock)


def call(session: SandboxSession, name: str, /, **arguments: object) -> str:
    result = session.call(ToolCall("c", name, arguments))
    assert (result.call_id, result.isolation) == ("c", IsolationLevel.NONE)
    return result.content


def test_the_sandbox_and_its_sessions_are_what_the_seam_asks_for() -> None:
    sandbox: Sandbox = InProcessSandbox([put, count])
    assert (sandbox.trust, sandbox.level) == (Trust.IN_PROCESS, IsolationLevel.NONE)
    assert [spec.name for spec in sandbox.specs()] == ["put", "count"]
    session: SandboxSession = sandbox.open()
    assert call(session, "put", name="pear", count=2) == "2"
    assert call(session, "count") == "2"


def test_sessions_share_nothing() -> None:
    sandbox = InProcessSandbox([put, count])
    one, other = sandbox.open(), sandbox.open()
    call(one, "put", name="pear")
    assert call(other, "count") == "0"
    assert one.state_hash() != other.state_hash()


def test_equal_histories_have_equal_hashes() -> None:
    sandbox = InProcessSandbox([put, count])
    one, other = sandbox.open(), sandbox.open()
    for name in ("pear", "plum"):
        call(one, "put", name=name)
    for name in ("plum", "pear"):
        call(other, "put", name=name)
    assert one.state_hash() == other.state_hash()


def test_a_fork_continues_from_its_snapshot_any_number_of_times() -> None:
    sandbox = InProcessSandbox([put, count])
    trunk = sandbox.open()
    call(trunk, "put", name="pear", count=2)
    snapshot = trunk.snapshot()
    call(trunk, "put", name="plum", count=5)
    left, right = sandbox.fork(snapshot), sandbox.fork(snapshot)
    call(left, "put", name="pear")
    assert [call(session, "count") for session in (trunk, left, right)] == ["7", "3", "2"]
    assert right.state_hash() == snapshot.state_hash != left.state_hash()


def test_a_snapshot_that_lost_something_is_refused() -> None:
    sandbox = InProcessSandbox([forget])
    session = sandbox.open()
    call(session, "forget")
    with pytest.raises(ForkDiverged, match=r"the copied state hashes to .*, its snapshot says .*lost or changed"):
        sandbox.fork(session.snapshot())
    with pytest.raises(ForkDiverged):
        sandbox.fork(Snapshot(sandbox.open().snapshot().data, "0" * 32))


def test_state_may_be_a_pydantic_model_or_come_from_a_factory() -> None:
    assert call(InProcessSandbox([spend]).open(), "spend") == "2"
    assert call(InProcessSandbox([spend], state=lambda: Purse(coins=10)).open(), "spend") == "9"


def test_functions_without_state_need_none() -> None:
    sandbox = InProcessSandbox([double])
    session = sandbox.open()
    assert call(session, "double", number=21) == "42"
    assert sandbox.fork(session.snapshot()).state_hash() == session.state_hash()


def test_a_tool_that_is_not_there_is_the_models_error() -> None:
    result = InProcessSandbox([double]).open().call(ToolCall("c", "triple", {}))
    assert (result.status, result.content) == (CallStatus.UNKNOWN_TOOL, "error: no tool triple")


def test_a_closed_session_and_a_closed_sandbox_say_so() -> None:
    sandbox = InProcessSandbox([double])
    session = sandbox.open()
    session.close()
    session.close()
    with pytest.raises(LeaseLost, match="was closed; open another one"):
        session.call(ToolCall("c", "double", {"number": 1}))
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxUnavailable, match="was closed; make another one"):
        sandbox.open()


def test_closing_the_sandbox_ends_its_sessions() -> None:
    sandbox = InProcessSandbox([double])
    session = sandbox.open()
    sandbox.close()
    with pytest.raises(LeaseLost):
        session.call(ToolCall("c", "double", {"number": 1}))


def test_tools_that_cannot_share_a_session_are_refused() -> None:
    with pytest.raises(InvalidTool, match="tool 'double': there are two of this name"):
        InProcessSandbox([double, double])
    with pytest.raises(InvalidTool, match="tool 'wild': asks for trust 'isolated', this tier runs 'in_process'"):
        InProcessSandbox([wild])
    with pytest.raises(InvalidTool, match="share one state; found 'put' for Basket, 'spend' for Purse"):
        InProcessSandbox([put, spend])
    with pytest.raises(InvalidTool, match="the state is a Purse, its tools ask for Basket"):
        InProcessSandbox([put], state=Purse).open()


def test_a_state_that_is_no_data_is_refused() -> None:
    with pytest.raises(InvalidTool, match=r"state Locked: a _thread\.lock has no form in JSON; keep plain data"):
        InProcessSandbox([peek]).open().state_hash()
