"""What only the language tier does: sessions as data, calls that are undone, host tools, and workers that die."""

from __future__ import annotations

import os
import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tool_sandbox.config import MIB, LanguageConfig
from tool_sandbox.errors import ForkDiverged, InvalidTool, IsolationUnavailable
from tool_sandbox.host_tools import HostTool
from tool_sandbox.language import CALCULATE, CODE, LanguageSandbox, LanguageSession
from tool_sandbox.sandbox import Snapshot
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec, Trust

CONFIG = LanguageConfig(cpu_seconds=1, workers=1, host_calls=8, queue_seconds=10)
PRICES = {"lamp": 12, "desk": 80}
PRICE = ToolSpec(
    "price",
    "Price of an item.",
    {
        "type": "object",
        "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["item"],
        "additionalProperties": False,
    },
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LanguageSandbox]:
    sandbox = LanguageSandbox(CONFIG)
    yield sandbox
    sandbox.close()


def run(session: LanguageSession, code: str) -> ToolResult:
    return session.call(ToolCall("c7", "code", {"code": code}))


def price(call: ToolCall) -> ToolResult:
    item = call.arguments["item"]
    if item not in PRICES:
        return ToolResult(call.id, CallStatus.TOOL_ERROR, f"error: no {item}")
    return ToolResult(call.id, CallStatus.OK, str(PRICES[item] * call.arguments.get("count", 1)))


def offering(run: Callable[[ToolCall], ToolResult]) -> dict[str, HostTool]:
    return {"price": HostTool(PRICE, run)}


def workers() -> list[int]:
    """Process ids of the interpreters that this process started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue  # It ended meanwhile.
        if name.endswith("(monty") and int(rest.split()[1]) == os.getpid() and rest.split()[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("expression", "value"),
    [("6 * 7", "42"), ("2 ** 0.5 > 1.41", "True"), ("'lamp'.upper()  # loud", "LAMP"), ("sum(\n[1, 2])", "3")],
)
def test_a_calculation_gives_its_value(sandbox: LanguageSandbox, expression: str, value: str) -> None:
    result = sandbox.open().call(ToolCall("c", "calculate", {"expression": expression}))
    assert (result.status, result.content) == (CallStatus.OK, value)


def test_a_number_too_large_to_write_down_is_an_error_and_costs_no_time(sandbox: LanguageSandbox) -> None:
    for expression, status in (
        ("10 ** 5000", CallStatus.TOOL_ERROR),
        ("10 ** 10 ** 9", CallStatus.OUT_OF_MEMORY),
        ("'x' * 10 ** 12", CallStatus.OUT_OF_MEMORY),
    ):
        result = sandbox.open().call(ToolCall("c", "calculate", {"expression": expression}))
        assert result.status is status
        assert result.cpu_seconds < 1


def test_code_calls_host_tools_by_position_and_by_name(sandbox: LanguageSandbox) -> None:
    asked: list[ToolCall] = []

    def record(call: ToolCall) -> ToolResult:
        asked.append(call)
        return price(call)

    session = sandbox.open(offering(record))
    assert run(session, "print(price('lamp') + price('desk', count=2))").content == "172"
    assert [(call.id, dict(call.arguments)) for call in asked] == [
        ("c7.1", {"item": "lamp"}),
        ("c7.2", {"item": "desk", "count": 2}),
    ]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("price('chair')", "RuntimeError: no chair"),
        ("price()", "TypeError: price needs item"),
        ("price(7)", "TypeError: item must be string"),
        ("price('lamp', 1, 2)", "TypeError: price(item, count) takes 2 arguments, not 3"),
        ("price('lamp', item='desk')", "TypeError: price(item, count) got item twice"),
        ("price({1, 2})", "TypeError: price(item, count) takes JSON only"),
        ("discount('lamp')", "NameError: name 'discount' is not defined"),
    ],
)
def test_a_host_tool_that_refuses_raises_in_the_code(sandbox: LanguageSandbox, code: str, error: str) -> None:
    session = sandbox.open(offering(price))
    result = run(session, code)
    assert result.status is CallStatus.TOOL_ERROR
    assert result.content.startswith(f"error: {error}")
    kind = error.partition(":")[0]
    assert run(session, f"try:\n    {code}\nexcept {kind}:\n    print('handled')").content == "handled"


def test_a_host_tool_that_was_lost_is_an_infrastructure_failure_even_if_the_code_catches_it(
    sandbox: LanguageSandbox,
) -> None:
    session = sandbox.open(offering(lambda call: ToolResult(call.id, CallStatus.INFRA_ERROR, "error: gone")))
    result = run(session, "x = 1\ntry:\n    price('lamp')\nexcept RuntimeError:\n    pass")
    assert (result.status, result.content) == (CallStatus.INFRA_ERROR, "error: gone")
    assert run(session, "print(x)").status is CallStatus.TOOL_ERROR


def test_a_defect_of_a_host_tool_is_ours_and_not_the_code_s(sandbox: LanguageSandbox) -> None:
    def broken(call: ToolCall) -> ToolResult:
        raise KeyError("a bug")

    session = sandbox.open(offering(broken))
    with pytest.raises(KeyError, match="a bug"):
        run(session, "try:\n    price('lamp')\nexcept Exception:\n    pass")


def test_a_call_has_a_budget_of_host_calls(sandbox: LanguageSandbox) -> None:
    session = sandbox.open(offering(price))
    assert run(session, "for _ in range(8): price('lamp')").status is CallStatus.OK
    result = run(session, "for _ in range(9): price('lamp')")
    assert result.status is CallStatus.TOOL_ERROR
    assert "limit 8" in result.content


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("x = 2\nwhile True: pass", CallStatus.TIMEOUT),
        ("x = 2\ntry:\n    while True: pass\nexcept BaseException:\n    pass", CallStatus.TIMEOUT),
        ("x = 2\ny = 'z' * 10 ** 9", CallStatus.OUT_OF_MEMORY),
    ],
)
def test_a_call_over_its_budget_is_undone(sandbox: LanguageSandbox, code: str, status: CallStatus) -> None:
    session = sandbox.open()
    run(session, "x = 1")
    before = session.state_hash()
    assert run(session, code).status is status
    assert session.state_hash() == before
    assert run(session, "print(x)").content == "1"


def test_an_exception_undoes_nothing(sandbox: LanguageSandbox) -> None:
    session = sandbox.open()
    before = session.state_hash()
    run(session, "x = 1\nraise ValueError")
    assert session.state_hash() != before
    assert run(session, "print(x)").content == "1"


def test_a_worker_that_dies_costs_one_call_and_no_session(sandbox: LanguageSandbox) -> None:
    def kill(call: ToolCall) -> ToolResult:
        os.kill(workers()[0], signal.SIGKILL)
        return price(call)

    session, other = sandbox.open(offering(kill)), sandbox.open()
    run(session, "x = 1")
    run(other, "x = 2")
    (doomed,) = workers()
    result = run(session, "x = price('lamp')")
    assert result.status is CallStatus.INFRA_ERROR
    assert result.content.startswith("error: the worker was lost")
    assert run(session, "print(x)").content == "1"
    assert run(other, "print(x)").content == "2"
    assert workers() != [doomed]


def test_an_idle_worker_that_died_is_replaced(sandbox: LanguageSandbox) -> None:
    session = sandbox.open()
    run(session, "x = 1")
    os.kill(workers()[0], signal.SIGKILL)
    results = [run(session, "print(x)") for _ in range(2)]
    assert {result.status for result in results} <= {CallStatus.OK, CallStatus.INFRA_ERROR}
    assert results[-1].content == "1"


def test_a_call_that_gets_no_worker_in_time_is_an_infrastructure_failure() -> None:
    sandbox = LanguageSandbox(CONFIG.model_copy(update={"queue_seconds": 0.1}))
    inside, done = threading.Event(), threading.Event()

    def wait(call: ToolCall) -> ToolResult:
        inside.set()
        assert done.wait(30)
        return price(call)

    slow = threading.Thread(target=run, args=(sandbox.open(offering(wait)), "price('lamp')"))
    slow.start()
    assert inside.wait(30)
    result = run(sandbox.open(), "print(1)")
    assert result.status is CallStatus.INFRA_ERROR
    assert "no monty worker became available" in result.content
    done.set()
    slow.join(30)
    sandbox.close()


def test_sessions_hold_no_process(sandbox: LanguageSandbox) -> None:
    sessions = [sandbox.open() for _ in range(50)]
    for number, session in enumerate(sessions):
        run(session, f"x = {number}")
    assert len(workers()) == 1
    assert [run(session, "print(x)").content for session in sessions] == [str(number) for number in range(50)]


def test_the_clock_stands_still_and_random_numbers_have_one_seed(sandbox: LanguageSandbox) -> None:
    code = "import random, time\nfrom datetime import datetime\nprint(random.random(), time.time(), datetime.now())"
    first, second = run(sandbox.open(), code), run(sandbox.open(), code)
    assert first.status is CallStatus.OK
    assert first.content == second.content
    waiting = run(sandbox.open(), "import time\ntime.sleep(3600)\nprint('awake')")
    assert (waiting.content, waiting.wall_seconds < 5) == ("awake", True)


def test_a_worker_can_open_no_file_and_no_socket(sandbox: LanguageSandbox) -> None:
    run(sandbox.open(), "print(1)")
    (pid,) = workers()
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
    assert found["Max open files"] == found["Max file size"] == found["Max core file size"] == ["0", "0"]


def test_a_worker_may_be_wrapped_in_a_program_that_confines_it_further(tmp_path: Path) -> None:
    wrapper = tmp_path / "confined"
    monty = Path(sysconfig.get_path("scripts")) / "monty"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --no-new-privs {monty} "$@"\n')
    wrapper.chmod(0o755)
    others = set(workers())
    confined = LanguageSandbox(CONFIG.model_copy(update={"worker": wrapper}))
    assert run(confined.open(), "print(6 * 7)").content == "42"
    (pid,) = set(workers()) - others
    assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
    assert run(confined.open(), "while True: pass").status is CallStatus.TIMEOUT
    confined.close()


def test_a_worker_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsolationUnavailable, match="its worker does not start"):
        LanguageSandbox(CONFIG.model_copy(update={"worker": tmp_path / "nowhere"}))


def test_a_snapshot_continues_in_another_sandbox(sandbox: LanguageSandbox) -> None:
    original = sandbox.open()
    run(original, "import math\nclass Box:\n    def __init__(self): self.n = 1\nbox = Box()\nbox.n = math.floor(7.9)")
    elsewhere = LanguageSandbox(CONFIG)
    fork = elsewhere.fork(original.snapshot())
    assert run(fork, "print(box.n, math.floor(1.5))").content == "7 1"
    assert fork.state_hash() != original.state_hash()
    assert run(original, "print(box.n, math.floor(1.5))").content == "7 1"
    assert fork.state_hash() == original.state_hash()
    elsewhere.close()


def test_a_fork_calls_the_host_tools_that_it_is_given(sandbox: LanguageSandbox) -> None:
    original = sandbox.open(offering(price))
    run(original, "ask = price\nx = price('lamp')")
    fork = sandbox.fork(original.snapshot(), offering(lambda call: ToolResult(call.id, CallStatus.OK, "1")))
    assert run(fork, "print(x, price('lamp'), ask('lamp'))").content == "12 1 1"
    assert run(original, "print(price('lamp'))").content == "12"


def test_a_damaged_snapshot_is_refused(sandbox: LanguageSandbox) -> None:
    session = sandbox.open()
    run(session, "x = 1")
    whole = session.snapshot()
    with pytest.raises(ForkDiverged, match="damaged or another tier's"):
        sandbox.fork(Snapshot(whole.data[:-1], whole.state_hash))


def test_tools_of_another_tier_and_tools_of_one_name_are_refused() -> None:
    isolated = replace(CODE, spec=replace(CODE.spec, trust=Trust.ISOLATED))
    with pytest.raises(InvalidTool, match="declares trust 'isolated'; this tier runs 'language'"):
        LanguageSandbox(CONFIG, [isolated])
    with pytest.raises(InvalidTool, match="tool 'calculate': declared twice"):
        LanguageSandbox(CONFIG, [CALCULATE, CODE, CALCULATE])


def test_memory_belongs_to_the_session_and_not_to_the_call() -> None:
    sandbox = LanguageSandbox(CONFIG.model_copy(update={"memory_bytes": 2 * MIB}))
    session = sandbox.open()
    assert run(session, "x = 'a' * 1_500_000").status is CallStatus.OK
    assert run(session, "y = 'b' * 1_500_000").status is CallStatus.OUT_OF_MEMORY
    assert run(session, "x = None\ny = 'b' * 1_500_000\nprint(len(y))").content == "1500000"
    sandbox.close()
