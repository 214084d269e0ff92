"""Sessions: typed statuses, and the exact distance checked against brute force over real sessions."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.policies import OraclePolicy, RandomPolicy
from tool_sandbox.ledger.progress import planned_call
from tool_sandbox.ledger.setting import restore
from tool_sandbox.ledger.tools import TOOLS, Value, accepts
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall, ToolResult

LEDGER = LedgerToolset()
PLACES = [(split, level) for split in Split for level in LEDGER.levels() if LEDGER.has_tasks(split, level)]


def constants_of(task: Task) -> list[Value]:
    return [constant.value for constant in Plan.from_json(task.payload["plan"]).constants]


def planned_calls(task: Task) -> list[ToolCall]:
    return [planned_call(call.tool, call.values) for call in restore(task.payload).calls]


def is_transient(task: Task) -> bool:
    return task.payload.get("fault", {}).get("kind") == "transient"


def first_task(level: str, tools: set[str]) -> Task:
    tasks = (LEDGER.sample_task(Split.TRAIN, level, index) for index in range(5000))
    return next(task for task in tasks if set(Plan.from_json(task.payload["plan"]).tools) == tools)


def test_a_hop_brings_the_task_one_call_nearer_each_time() -> None:
    task = first_task("L1", {"price", "item"})
    session = LEDGER.open(task)
    hop, price = planned_calls(task)
    first = session.call(hop)
    assert first.progress == Progress(before=2, after=1)
    assert first.result.content in restore(task.payload).world.items
    second = session.call(price)
    assert second.progress == Progress(before=1, after=0)
    assert second.result.content == task.ground_truth.answer


def test_a_repeated_call_is_worth_nothing() -> None:
    task = first_task("L1", {"price", "item"})
    session = LEDGER.open(task)
    hop, _ = planned_calls(task)
    session.call(hop)
    assert session.call(hop).progress == Progress(before=1, after=1)


def test_a_guessed_argument_makes_the_calls_below_it_needless() -> None:
    task = first_task("L1", {"price", "item"})
    _, price = planned_calls(task)
    assert LEDGER.open(task).call(price).progress == Progress(before=2, after=0)


def test_the_arguments_of_a_sum_may_be_swapped() -> None:
    tasks = (LEDGER.sample_task(Split.TRAIN, "L2", index) for index in range(5000))
    task = next(task for task in tasks if task.payload["plan"][-1]["tool"] == "add")
    session = LEDGER.open(task)
    *reads, total = planned_calls(task)
    for read in reads:
        session.call(read)
    swapped = ToolCall("c", "add", {"a": total.arguments["b"], "b": total.arguments["a"]})
    assert session.call(swapped).progress == Progress(before=1, after=0)


def test_the_models_errors_come_back_as_statuses_and_move_nothing() -> None:
    task = first_task("L1", {"price", "item"})
    session = LEDGER.open(task)
    hidden = next(name for name in TOOLS if name not in task.tools)
    cases = {
        CallStatus.UNKNOWN_TOOL: (ToolCall("a", hidden, {}), f"error: no tool {hidden}"),
        CallStatus.INVALID_ARGUMENTS: (ToolCall("b", "price", {}), "error: price needs item"),
        CallStatus.TOOL_ERROR: (ToolCall("c", "price", {"item": "yeti"}), "error: no item yeti"),
    }
    for status, (call, content) in cases.items():
        outcome = session.call(call)
        assert (outcome.result.status, outcome.result.content) == (status, content)
        assert outcome.result.call_id == call.id
        assert outcome.progress == Progress(before=2, after=2)


def test_a_float_that_is_whole_counts_as_an_integer() -> None:
    tasks = (LEDGER.sample_task(Split.TRAIN, "L2", index) for index in range(5000))
    task = next(task for task in tasks if task.payload["plan"][-1]["tool"] == "add")
    result = LEDGER.open(task).call(ToolCall("c", "add", {"a": 12.0, "b": 30})).result
    assert (result.status, result.content) == (CallStatus.OK, "42")


def test_seconds_are_recorded() -> None:
    task = first_task("L1", {"price", "item"})
    result = LEDGER.open(task).call(planned_calls(task)[0]).result
    assert result.wall_seconds > 0
    assert 0 <= result.cpu_seconds < 0.5


def write_task(status: str, tools: set[str], offered: tuple[str, ...]) -> tuple[Task, str]:
    """A task on an order that the prompt names and that starts in `status`, offering exactly `offered`."""
    tasks = (LEDGER.sample_task(Split.TRAIN, "L3", index) for index in range(5000))
    for task in tasks:
        rows = task.payload["patch"].get("order", {})
        if set(Plan.from_json(task.payload["plan"]).tools) == tools and [*rows.values()] == [{"status": status}]:
            return replace(task, tools=offered), next(iter(rows))
    raise AssertionError("no such task")


def test_a_harmful_write_costs_as_many_calls_as_it_takes_to_repair() -> None:
    # The order is open and shall be shipped: pay, ship. Cancelling it adds a reopen.
    task, order = write_task("open", {"pay", "ship"}, ("pay", "ship", "cancel", "reopen"))
    session = LEDGER.open(task)
    run = [session.call(ToolCall("c", tool, {"order": order})).progress for tool in ("cancel", "reopen", "pay", "ship")]
    assert run == [Progress(2, 3), Progress(3, 2), Progress(2, 1), Progress(1, 0)]
    assert session.state_hash() == task.ground_truth.state_hash


def test_a_write_on_the_wrong_row_costs_its_repair() -> None:
    task, order = write_task("open", {"pay", "ship"}, ("pay", "ship", "refund"))
    session = LEDGER.open(task)
    other = next(name for name in restore(task.payload).world.orders if name != order)
    assert session.call(ToolCall("c", "pay", {"order": other})).progress == Progress(2, 3)
    assert session.call(ToolCall("c", "refund", {"order": other})).progress == Progress(3, 2)


def test_too_large_a_deposit_is_one_withdrawal_away_or_lost() -> None:
    tasks = (LEDGER.sample_task(Split.TRAIN, "L3", index) for index in range(5000))
    found = next(task for task in tasks if planned_calls(task)[-1].name == "deposit" and "thaw" not in task.tools)
    right = planned_calls(found)[-1].arguments
    minimum = found.ground_truth.minimum_calls or 0
    wrong = ToolCall("c", "deposit", {**right, "amount": right["amount"] + 5})
    for others, after in ((("withdraw",), 1), ((), minimum + 3)):
        tools = (*(name for name in found.tools if name != "withdraw"), *others)
        session = LEDGER.open(replace(found, tools=tools))
        for call in planned_calls(found)[:-1]:
            session.call(call)
        assert session.call(wrong).progress == Progress(1, after)


def test_a_session_with_no_way_back_is_lost_and_says_so() -> None:
    # Nothing leads out of a cancelled order without `reopen`: 2 calls + the margin of 3.
    task, order = write_task("open", {"pay", "ship"}, ("pay", "ship", "cancel"))
    session = LEDGER.open(task)
    assert session.call(ToolCall("c", "cancel", {"order": order})).progress == Progress(2, 5)
    assert session.next_call() is None


def test_a_refused_write_is_an_error_and_changes_nothing() -> None:
    task, order = write_task("open", {"pay", "ship"}, ("pay", "ship"))
    session = LEDGER.open(task)
    before = session.state_hash()
    outcome = session.call(ToolCall("c", "ship", {"order": order}))
    assert (outcome.result.status, outcome.result.content) == (CallStatus.TOOL_ERROR, f"error: {order} is open")
    assert outcome.progress == Progress(2, 2)
    assert session.state_hash() == before


def test_python_runs_only_where_the_task_names_it_and_moves_nothing() -> None:
    def runner(call: ToolCall) -> ToolResult:
        return ToolResult(call.id, CallStatus.OK, "ran " + str(call.arguments["code"]), cpu_seconds=1.5)

    ledger = LedgerToolset(python=runner)
    task = ledger.sample_task(Split.TRAIN, "L2", 3)
    call = ToolCall("c", "python", {"code": "1"})
    assert ledger.open(task).call(call).result.status is CallStatus.UNKNOWN_TOOL
    outcome = ledger.open(replace(task, tools=(*task.tools, "python"))).call(call)
    assert (outcome.result.content, outcome.result.cpu_seconds) == ("ran 1", 1.5)
    assert outcome.progress is not None
    assert outcome.progress.before == outcome.progress.after == task.ground_truth.minimum_calls


def brute_force(task: Task, prefix: list[ToolCall], limit: int) -> int | None:
    """Fewest calls after `prefix` that solve the task, by trying every call on real sessions; None beyond `limit`.

    An argument may be anything that the prompt or an observation told, or that a successful call used. Repairs may
    also use the value that puts a row right.
    """
    frontier = [prefix]
    seen: set[object] = set()
    for depth in range(limit + 1):
        following: list[list[ToolCall]] = []
        for calls in frontier:
            session = LEDGER.open(task)
            known: list[Value] = [*constants_of(task), *repairs(task)]
            observed: set[str] = set()
            for call in calls:
                result = session.call(call).result
                if result.status is CallStatus.OK:
                    observed.add(result.content)
                    known += [*call.arguments.values()]
                    known.append(int(result.content) if result.content.isdigit() else result.content)
            truth = task.ground_truth
            if session.state_hash() == truth.state_hash or (truth.answer is not None and truth.answer in observed):
                return depth
            key = (session.state_hash(), frozenset(known))
            if key not in seen and depth < limit:
                seen.add(key)
                following += [[*calls, call] for call in every_call(task, list(dict.fromkeys(known)))]
        frontier = following
    return None


def repairs(task: Task) -> list[Value]:
    return [""] if "note" in task.tools else []


def every_call(task: Task, known: list[Value]) -> list[ToolCall]:
    world = restore(task.payload).world
    calls = []
    for name in task.tools:
        tool = TOOLS[name]
        fitting = [[value for value in known if accepts(domain, world.kind_of(value))] for domain in tool.domains]
        calls += [planned_call(name, values) for values in itertools.product(*fitting)]
    return calls


@pytest.mark.parametrize(
    ("split", "level", "count"),
    [(Split.TRAIN, "L0", 40), (Split.TRAIN, "L1", 40), (Split.TRAIN, "L2", 6), (Split.TEST_COMP, "L1", 20)],
)
def test_no_sequence_of_calls_answers_a_question_sooner(split: Split, level: str, count: int) -> None:
    for index in range(count):
        task = LEDGER.sample_task(split, level, 1000 + index)
        least = task.ground_truth.minimum_calls
        assert least is not None
        assert brute_force(task, [], least) == least, task.prompt


def test_no_sequence_of_calls_reaches_a_target_state_sooner() -> None:
    checked = 0
    for index in range(60):
        task = LEDGER.sample_task(Split.TRAIN, "L3", index)
        if (task.ground_truth.minimum_calls or 9) <= 3:
            assert brute_force(task, [], 3) == task.ground_truth.minimum_calls, task.prompt
            checked += 1
    assert checked > 30


def test_the_distance_is_exact_after_random_writes() -> None:
    checked = lost = 0
    for index in range(120):
        task = LEDGER.sample_task(Split.TRAIN, "L3", index)
        if "deposit" in task.tools or "withdraw" in task.tools:
            continue  # a wrong amount is repaired with a difference, which brute force over known values cannot name
        rng = random.Random(index)
        session, prefix = LEDGER.open(task), []
        for _ in range(2):
            call = rng.choice(every_call(task, [*constants_of(task), *map(str, restore(task.payload).world.orders)]))
            prefix.append(call)
            outcome = session.call(call)
        remaining = outcome.progress.after if outcome.progress else 9
        ceiling = (task.ground_truth.minimum_calls or 0) + 3
        if remaining == ceiling:
            lost += 1
            assert brute_force(task, prefix, 2) is None
        elif remaining <= 2:
            checked += 1
            assert brute_force(task, prefix, remaining) == remaining, (task.prompt, prefix)
    assert checked > 7
    assert lost > 0


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_distance_telescopes_whatever_is_called(place: tuple[Split, str], index: int, seed: int) -> None:
    task = LEDGER.sample_task(*place, index)
    run = demonstrate(LEDGER, task, RandomPolicy(seed, answer_probability=0.0), max_steps=10)
    minimum = task.ground_truth.minimum_calls
    assert minimum is not None
    distances = [minimum]
    for outcome in run.outcomes:
        assert outcome.progress is not None
        assert outcome.progress.before == distances[-1]
        assert 0 <= outcome.progress.after <= minimum + 3
        if outcome.result.status is not CallStatus.OK and "busy" not in outcome.result.content:
            assert outcome.progress.after == outcome.progress.before
        distances.append(outcome.progress.after)
    gains = sum(outcome.progress.before - outcome.progress.after for outcome in run.outcomes if outcome.progress)
    assert gains == minimum - distances[-1]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), st.integers(0, 10**9))
def test_the_oracle_solves_every_task_with_the_fewest_calls(place: tuple[Split, str], index: int) -> None:
    task = LEDGER.sample_task(*place, index)
    run = demonstrate(LEDGER, task, OraclePolicy(), max_steps=20)
    assert run.solved is True
    assert len(run.actions) == task.ground_truth.minimum_calls
    failed = [outcome.result.content for outcome in run.outcomes if outcome.result.status is not CallStatus.OK]
    assert failed == (["error: busy, call again"] if is_transient(task) else [])
    assert [o.progress.before - o.progress.after for o in run.outcomes if o.progress] == [1] * len(run.actions)
