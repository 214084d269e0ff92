"""Levels with one faulty tool: what the model meets, and that the distance stays exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

import pytest

from tests.tool_sandbox.ledger_brute_force import fewest_calls, open_player
from tool_sandbox.demonstrations import Policy, demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.policies import NoiseMix, NoisyOraclePolicy, OraclePolicy, RandomPolicy
from tool_sandbox.ledger.progress import planned_call
from tool_sandbox.ledger.setting import restore
from tool_sandbox.ledger.splits import split_of
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall

LEDGER = LedgerToolset()
KINDS = ("transient", "login", "pages")


@cache
def faulty(level: str, kind: str, split: Split = Split.TRAIN, count: int = 40) -> tuple[Task, ...]:
    tasks = (LEDGER.sample_task(split, level, index) for index in range(count))
    return tuple(task for task in tasks if task.payload["fault"]["kind"] == kind)


def chain(kind: str) -> Task:
    """A question whose faulty tool is called once, and first."""
    for task in faulty("L2F", kind, count=200):
        tools = [call["tool"] for call in task.payload["plan"]]
        if tools[0] == task.payload["fault"]["tool"] and tools.count(tools[0]) == 1:
            return task
    raise AssertionError("no such task")


def first_call(task: Task, **more: str) -> ToolCall:
    call = LEDGER.open(task).next_call()
    assert call is not None
    return ToolCall("c", call.name, {**call.arguments, **more})


def test_a_transient_error_is_met_once_and_the_retry_was_counted() -> None:
    task = chain("transient")
    least = len(task.payload["plan"]) + 1
    assert task.ground_truth.minimum_calls == least
    session = LEDGER.open(task)
    call = first_call(task)
    failed = session.call(call)
    assert (failed.result.status, failed.result.content) == (CallStatus.TOOL_ERROR, "error: busy, call again")
    assert failed.progress == Progress(least, least - 1)
    again = session.call(call)
    assert (again.result.status, again.progress) == (CallStatus.OK, Progress(least - 1, least - 2))


def test_a_transient_error_does_not_care_about_the_arguments_but_the_schema_comes_first() -> None:
    task = chain("transient")
    session, right = LEDGER.open(task), first_call(task)
    parameter = next(iter(right.arguments))
    unread = session.call(ToolCall("c", right.name, {}))
    assert (unread.result.status, unread.progress) == (CallStatus.INVALID_ARGUMENTS, Progress(*2 * [_least(task)]))
    busy = session.call(ToolCall("c", right.name, {parameter: "yeti"}))
    assert (busy.result.content, busy.progress) == ("error: busy, call again", Progress(_least(task), _least(task) - 1))
    assert session.call(right).result.status is CallStatus.OK


def _least(task: Task) -> int:
    least = task.ground_truth.minimum_calls
    assert least is not None
    return least


def test_a_tool_behind_a_login_refuses_until_then_and_works_ever_after() -> None:
    task = chain("login")
    least = _least(task)
    assert least == len(task.payload["plan"]) + 1
    session, login = LEDGER.open(task), first_call(task)
    [planned, *_] = restore(task.payload).calls
    closed = planned_call(planned.tool, planned.values)
    for _ in range(2):
        refused = session.call(closed)
        assert (refused.result.status, refused.result.content) == (CallStatus.TOOL_ERROR, "error: log in first")
        assert refused.progress == Progress(least, least)
    assert login.name == "login"
    assert session.call(login).progress == Progress(least, least - 1)
    assert session.call(login).progress == Progress(least - 1, least - 1)
    assert session.call(closed).progress == Progress(least - 1, least - 2)


def test_a_list_is_read_page_by_page_and_each_page_is_a_call_of_the_distance() -> None:
    task = next(t for t in faulty("L2F", "pages", count=200) if _least(t) == len(t.payload["plan"]) + 2)
    session = LEDGER.open(task)
    before, pages = _least(task), []
    while len(pages) < 3:
        call = session.next_call()
        assert call is not None
        outcome = session.call(call)
        assert outcome.progress == Progress(before, before - 1)
        before -= 1
        if call.name.startswith("list_"):
            pages.append((call.arguments.get("cursor"), outcome.result.content))
    (start, first), (second, middle), (third, last) = pages
    assert (start, first) == (None, f"not here, cursor {second}")
    assert middle == f"not here, cursor {third}"
    assert "cursor" not in last


def test_the_same_page_twice_is_worth_nothing_and_an_unheard_cursor_is_refused() -> None:
    task = chain("pages")
    session, first = LEDGER.open(task), first_call(task)
    least = _least(task)
    assert session.call(first).progress == Progress(least, least - 1)
    assert session.call(first).progress == Progress(least - 1, least - 1)
    wrong = session.call(ToolCall("c", first.name, {**first.arguments, "cursor": "c999"}))
    assert (wrong.result.status, wrong.result.content) == (CallStatus.TOOL_ERROR, "error: no cursor c999")
    assert wrong.progress == Progress(least - 1, least - 1)
    unknown = session.call(ToolCall("c", first.name, dict.fromkeys(first.arguments, "yeti")))
    assert unknown.result.content.startswith("error: no ")


def test_a_fault_of_a_write_costs_as_long_as_a_row_needs_that_write() -> None:
    tasks = (task for task in faulty("L3F", "transient", count=400) if task.payload["fault"]["tool"] == "pay")
    task = next(t for t in tasks if [call["tool"] for call in t.payload["plan"]] == ["pay", "ship"])
    session = LEDGER.open(task)
    pay, ship = (planned_call(call.tool, call.values) for call in restore(task.payload).calls)
    run = [session.call(call).progress for call in (pay, pay, ship)]
    assert run == [Progress(3, 2), Progress(2, 1), Progress(1, 0)]


def test_every_kind_of_fault_comes_about_equally_often_and_lengthens_every_task() -> None:
    for level in ("L2F", "L3F"):
        tasks = [LEDGER.sample_task(Split.TRAIN, level, index) for index in range(200)]
        kinds = Counter(task.payload["fault"]["kind"] for task in tasks)
        assert set(kinds) == set(KINDS)
        # A list needs a row beyond the first page, so that kind is the rarest.
        assert min(kinds.values()) > 25
        assert all(_least(task) > len(task.payload["plan"]) for task in tasks)
        assert all(task.payload["fault"]["tool"] in Plan.from_json(task.payload["plan"]).tools for task in tasks)


def test_a_faulty_level_asks_the_questions_of_its_split() -> None:
    for split in Split:
        for level in ("L2F", "L3F"):
            for index in range(20):
                task = LEDGER.sample_task(split, level, index)
                assert split_of(Plan.from_json(task.payload["plan"])) is split


def test_what_a_fault_needs_is_offered_and_nothing_gives_it_away_elsewhere() -> None:
    for level in ("L2F", "L3F"):
        for kind in KINDS:
            for task in faulty(level, kind):
                assert ("login" in task.tools) is (kind == "login")
                listed = [name for name in task.tools if name.startswith("list_")]
                assert listed == ([f"list_{task.payload['fault']['tool']}"] if kind == "pages" else [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("level", "limit"), [("L2F", 4), ("L3F", 4)])
def test_no_sequence_of_calls_solves_a_faulty_task_sooner(level: str, limit: int, kind: str) -> None:
    checked = 0
    for task in faulty(level, kind, count=60):
        if _least(task) <= limit:
            player = open_player(task, LEDGER.open(task))
            assert fewest_calls(player, limit) == task.ground_truth.minimum_calls, task.prompt
            checked += 1
        if checked == 6:
            break
    assert checked >= 3


def exact_wherever(policy: Policy, tasks: Iterable[Task]) -> int:
    """Compares the distance with brute force after every call of a policy; returns the number of comparisons."""
    compared = 0
    for task in tasks:
        run = demonstrate(LEDGER, task, policy, 12)
        player = open_player(task, LEDGER.open(task))
        for call, outcome in zip(run.actions, run.outcomes, strict=True):
            player = player.after(call)
            assert outcome.progress is not None
            remaining = outcome.progress.after
            if remaining <= 2:
                assert fewest_calls(player, remaining) == remaining, (task.prompt, run.actions)
                compared += 1
    return compared


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [RandomPolicy(1, 0.0), NoisyOraclePolicy(0.5, 3, NoiseMix(premature=0))])
def test_the_distance_of_a_faulty_question_is_exact_after_any_call(policy: Policy, kind: str) -> None:
    assert exact_wherever(policy, faulty("L2F", kind)[:9]) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_of_a_faulty_goal_is_exact_along_the_way_and_after_calls_that_tell_nothing(kind: str) -> None:
    repeats = NoisyOraclePolicy(0.5, 3, NoiseMix(0, 0, 1, 0))
    # A wrong amount is put right by a difference, which brute force over known values cannot name.
    tasks = [task for task in faulty("L3F", kind) if not {"deposit", "withdraw"} & set(task.tools)]
    assert exact_wherever(repeats, tasks[:8]) > 10


@pytest.mark.parametrize("level", ["L2F", "L3F"])
def test_an_oracle_that_errs_still_finds_the_way_unless_it_is_lost(level: str) -> None:
    policy, solved = NoisyOraclePolicy(0.4, seed=1, mix=NoiseMix(premature=0)), 0
    for index in range(60):
        task = LEDGER.sample_task((Split.TRAIN, Split.TEST_TOOLS)[index % 2], level, index)
        run = demonstrate(LEDGER, task, policy, 40)
        assert run.outcomes[-1].progress is not None
        assert run.solved is True or run.outcomes[-1].progress.after == _least(task) + 3
        solved += run.solved is True
    assert solved >= 50


def test_an_early_answer_is_a_value_and_never_a_page_or_a_refusal() -> None:
    hasty = NoisyOraclePolicy(0.7, mix=NoiseMix(0, 0, 0, 1))
    for kind in KINDS:
        for task in faulty("L2F", kind):
            answer = demonstrate(LEDGER, task, hasty, 20).answer
            assert answer is not None
            assert not answer.startswith(("not here", "error", "logged in"))


def test_the_same_calls_meet_the_same_fault_in_every_session() -> None:
    for kind in KINDS:
        for task in faulty("L2F", kind)[:5]:
            one, other = (demonstrate(LEDGER, task, OraclePolicy(), 20) for _ in range(2))
            contents = [[outcome.result.content for outcome in run.outcomes] for run in (one, other)]
            assert contents[0] == contents[1]
