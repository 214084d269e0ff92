"""The attack corpus: every program compiles, succeeds where nothing holds it, and is judged by hand-made evidence."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tool_sandbox.attacks import (
    Attack,
    Fixtures,
    NoControl,
    Outcome,
    Outside,
    Sightings,
    Theme,
    all_attacks,
    can_control,
    judge,
    run_outside,
)
from tool_sandbox.attacks.attack import PLACEHOLDERS, bomb, probe
from tool_sandbox.config import MIB, SandboxConfig
from tool_sandbox.isolation.python_tool import CODE_CHARACTERS, PythonTool
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult

ATTACKS = {attack.name: attack for attack in all_attacks()}
CONTROLLED = [attack for attack in all_attacks() if isinstance(attack.control, Outside)]
SECRET = "steptool-secret-" + "0" * 32
NOTHING = Sightings(secret=SECRET)

BUBBLEWRAP_ALONE_LETS_THROUGH = {
    "write_memory_of_the_parent": "process 1 is bubblewrap itself, of the same user and under the same filter",
    "change_the_local_descriptor_table": "the filter is a list of denied calls, and modify_ldt is not on it",
    "forge_the_cost": "CPU seconds are what the code's own process says on its standard error",
    "forge_a_cost_that_is_no_number": "the same",
    "hide_the_cost_in_children": "the same",
    "nest_an_argument": "the check of arguments recurses, and raises",
    "send_half_a_surrogate": "the program is encoded as UTF-8, which raises",
}
"""What a fresh bubblewrap for each call does not hold, and why."""
MACHINE_DECIDES = {"fork_bomb"}
"""On few processors the wall stops it before the CPU limit does, and such a call has said nothing of its cost."""


@pytest.fixture(scope="module")
def fixtures() -> Iterator[Fixtures]:
    with Fixtures(uid=SandboxConfig().uid) as planted:
        yield planted


@pytest.fixture(scope="module")
def tool() -> PythonTool:
    return PythonTool(SandboxConfig(cpu_seconds=1, wall_seconds=3.0, memory_bytes=256 * MIB))


def result(content: str = "", status: CallStatus = CallStatus.OK, cpu_seconds: float = 0.1) -> ToolResult:
    return ToolResult("c", status, content, cpu_seconds, 0.2)


def speaking(**options: object) -> Attack:
    return probe(Theme.FILES, "x", "", "return None", **options)


def called(tool: PythonTool, arguments: dict[str, object]) -> ToolResult:
    """The result of a call; what the tool raises is our failure."""
    try:
        return tool(ToolCall("c", "python", arguments))
    except (RecursionError, UnicodeEncodeError) as error:
        return ToolResult("c", CallStatus.INFRA_ERROR, type(error).__name__)


def test_the_corpus_is_large_named_and_covers_every_theme() -> None:
    assert len(ATTACKS) == len(all_attacks()) >= 150
    assert {attack.theme for attack in all_attacks()} == set(Theme)
    assert min(Counter(attack.theme for attack in all_attacks()).values()) >= 10
    assert [attack.name for attack in all_attacks() if not attack.aim.endswith(".")] == []


def test_the_canaries_are_those_that_a_sandbox_must_pass_before_it_serves() -> None:
    canaries = {attack.name for attack in all_attacks() if attack.canary}
    assert {
        *("read_secret_file", "read_environment_secret", "connect_by_tcp", "send_by_udp", "connect_by_unix_socket"),
        *("signal_a_host_process", "trace_a_host_process", "write_outside", "make_a_user_namespace"),
        *("set_up_io_uring", "fork_bomb", "allocate", "fill_the_disk", "loop_forever", "sleep_forever"),
        *("flood_standard_output", "leave_a_daemon", "fill_shared_memory", "nest_an_argument"),
    } <= canaries


def test_every_attack_is_proved_outside_or_says_why_it_cannot_be() -> None:
    assert [attack.name for attack in all_attacks() if attack.theme is Theme.RESOURCES and attack in CONTROLLED] == []
    assert [
        each.name for each in all_attacks() if isinstance(each.control, NoControl) and not each.control.reason
    ] == []
    assert len(CONTROLLED) >= 110


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda attack: attack.name)
def test_a_program_compiles_and_fits_the_tool(attack: Attack, fixtures: Fixtures) -> None:
    programs = attack.program(fixtures.values), attack.follow_up_program(fixtures.values)
    for program in programs:
        compile(program, attack.name, "exec")
        assert len(program) <= CODE_CHARACTERS
        assert [name for name in PLACEHOLDERS if f"{{{name}}}" in program] == []
    assert fixtures.secret not in "".join(programs)


@pytest.mark.parametrize("attack", CONTROLLED, ids=lambda attack: attack.name)
def test_outside_a_sandbox_an_attack_succeeds(attack: Attack, fixtures: Fixtures) -> None:
    reason = can_control(attack)
    if reason is not None:
        pytest.skip(reason)
    fixtures.reset()
    ended = run_outside(attack, fixtures)
    verdict = judge(attack, ended, fixtures.seen())
    assert isinstance(attack.control, Outside)
    if verdict.outcome is Outcome.HELD and attack.control.unless:
        pytest.skip(f"held with {verdict.by} even outside: {attack.control.unless}")
    assert verdict.outcome is Outcome.ESCAPED, ended.content


def test_bubblewrap_holds_all_but_what_is_known(tool: PythonTool, fixtures: Fixtures) -> None:
    tried = [attack for attack in all_attacks() if attack.theme is not Theme.RESOURCES or attack.canary]
    escaped, unclear = {}, {}
    for attack in tried:
        fixtures.reset()
        ended = called(tool, dict(attack.arguments(fixtures.values)))
        if attack.follow_up:
            ended = called(tool, {"code": attack.follow_up_program(fixtures.values)})
        verdict = judge(attack, ended, fixtures.seen())
        if verdict.outcome is Outcome.ESCAPED:
            escaped[attack.name] = verdict.by
        elif verdict.outcome is Outcome.INCONCLUSIVE:
            unclear[attack.name] = verdict.by
    assert unclear == {}
    assert escaped.keys() - MACHINE_DECIDES == BUBBLEWRAP_ALONE_LETS_THROUGH.keys(), escaped
    assert called(tool, {"code": "print('still here')"}).content == "still here"


def test_what_the_code_says_of_itself_is_the_verdict_where_nothing_else_is_known() -> None:
    held = judge(speaking(), result("noise\nHELD EPERM"), NOTHING)
    assert (held.outcome, held.by) == (Outcome.HELD, "EPERM")
    escaped = judge(speaking(), result("HELD EPERM\nESCAPED by the window"), NOTHING)
    assert (escaped.outcome, escaped.by) == (Outcome.ESCAPED, "by the window")
    for content in ("", "held", "HELDEPERM", "I ESCAPED once"):
        assert judge(speaking(), result(content), NOTHING).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("seen", "by"),
    [
        (replace(NOTHING, visitors=("udp",)), "reached listeners of the host: udp"),
        (replace(NOTHING, victim="was signalled"), "a process of the host was signalled"),
        (replace(NOTHING, changes=("new appeared",)), "outside: new appeared"),
        (replace(NOTHING, daemons=(7,)), "processes outlive the call: 7"),
        (replace(NOTHING, next_call=CallStatus.INFRA_ERROR), "the next call ended with infra_error"),
    ],
)
def test_what_was_seen_outside_overrules_what_the_code_says(seen: Sightings, by: str) -> None:
    verdict = judge(speaking(), result("HELD EPERM"), seen)
    assert (verdict.outcome, verdict.by) == (Outcome.ESCAPED, by)


def test_the_secret_in_a_result_is_an_escape_however_it_came_there() -> None:
    assert judge(speaking(), result(f"HELD x{SECRET}x"), NOTHING).outcome is Outcome.ESCAPED
    assert judge(speaking(), result("HELD steptool-secret-1"), NOTHING).outcome is Outcome.HELD


def test_a_call_that_is_stopped_is_held_only_by_the_statuses_that_say_so() -> None:
    assert judge(speaking(), result(status=CallStatus.DENIED), NOTHING).outcome is Outcome.HELD
    assert judge(speaking(), result(status=CallStatus.TIMEOUT), NOTHING).outcome is Outcome.INCONCLUSIVE
    loop = bomb(Theme.RESOURCES, "x", "", "while True: pass", frozenset({CallStatus.TIMEOUT}))
    assert judge(loop, result(status=CallStatus.TIMEOUT), NOTHING).by == "status timeout"
    for status in (CallStatus.OK, CallStatus.INFRA_ERROR):
        assert judge(loop, result("HELD by itself", status), NOTHING).outcome is Outcome.ESCAPED


@pytest.mark.parametrize("cpu_seconds", [0.39, -1e9, float("nan"), float("inf")])
def test_a_forged_cost_is_an_escape(cpu_seconds: float) -> None:
    burner = bomb(Theme.OUTPUT, "x", "", "", frozenset({CallStatus.OK}), cpu_seconds=0.4)
    verdict = judge(burner, result(cpu_seconds=cpu_seconds), NOTHING)
    assert (verdict.outcome, verdict.by[:11]) == (Outcome.ESCAPED, "forged cost")
    assert judge(burner, result(cpu_seconds=0.4), NOTHING).outcome is Outcome.HELD


def test_a_mistake_in_an_attack_does_not_pass_for_a_sandbox_that_held(fixtures: Fixtures) -> None:
    broken = probe(Theme.FILES, "x", "", "return no_such_name")
    assert judge(broken, run_outside(broken, fixtures), NOTHING).outcome is Outcome.INCONCLUSIVE


def test_a_bomb_is_never_run_outside(fixtures: Fixtures) -> None:
    with pytest.raises(ValueError, match="'fork_bomb' has no control"):
        run_outside(ATTACKS["fork_bomb"], fixtures)


def test_the_listeners_answer_and_remember_who_came_until_they_are_reset(fixtures: Fixtures) -> None:
    fixtures.reset()
    assert fixtures.seen().visitors == ()
    with socket.create_connection(("127.0.0.1", int(str(fixtures.values["tcp_port"]))), timeout=5) as peer:
        assert peer.recv(64) == b"steptool-listener"
    assert fixtures.seen().visitors == ("tcp",)
    fixtures.reset()
    assert fixtures.seen().visitors == ()


def test_a_victim_that_was_killed_is_seen_and_revived(fixtures: Fixtures) -> None:
    fixtures.reset()
    victim = int(str(fixtures.values["victim_pid"]))
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while fixtures.seen().victim is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fixtures.seen().victim == "ended with -9"
    fixtures.reset()
    assert fixtures.seen().victim is None
    assert fixtures.values["victim_pid"] != victim


def test_the_folder_outside_is_restored(fixtures: Fixtures) -> None:
    fixtures.reset()
    folder = Path(str(fixtures.values["outside_dir"]))
    (folder / "precious").chmod(0o600)
    (folder / "new").mkdir()
    assert fixtures.seen().changes == ("new appeared", "precious was changed")
    fixtures.reset()
    assert fixtures.seen().changes == ()
    (folder / "precious").unlink()
    assert fixtures.seen().changes == ("precious is gone",)


def test_fixtures_leave_nothing_behind() -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    with Fixtures() as planted:
        victim, variable = int(str(planted.values["victim_pid"])), planted.secret_env
        assert os.environ[variable] == planted.secret
        assert Path(f"/proc/{victim}").exists()
    assert (descriptors(), threading.active_count()) == (before, threads)
    assert not Path(f"/proc/{victim}").exists()
    assert variable not in os.environ
    assert not planted.folder.exists()
