"""Sessions of tasks from a file: gold calls, states, checkers, scripted users and forks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tool_sandbox.shop import shop_folder, write_tasks
from tool_sandbox.demonstrations import Demonstration, Exchange, demonstrate
from tool_sandbox.errors import CorruptTask, InvalidToolset
from tool_sandbox.jsonl import JsonlToolset
from tool_sandbox.jsonl.gold import GoldCalls, call_key
from tool_sandbox.jsonl.session import JsonlSession
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.session import Dialogue, Forkable, Judged
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallOutcome, CallStatus, Progress, ToolCall, ToolSpec


class Folder:
    """Opens sessions of single tasks."""

    def __init__(self, path: Path, shop: str) -> None:
        self.path = path
        self.shop = shop

    def toolset(self, **parts: Any) -> JsonlToolset:
        line = {"id": "t", "prompt": "?", "toolset": f"{self.shop}:TOOLS"} | parts
        return JsonlToolset(write_tasks(self.path, line))

    def open(self, **parts: Any) -> JsonlSession:
        toolset = self.toolset(**parts)
        return toolset.open(toolset.tasks[0])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with shop_folder(tmp_path) as name:
        yield Folder(tmp_path, name)


def call(session: JsonlSession, name: str, /, **arguments: Any) -> CallOutcome:
    return session.call(ToolCall("c", name, arguments))


def gold(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def test_gold_calls_count_down_in_any_order_each_once(folder: Folder) -> None:
    session = folder.open(calls=[gold("sell", fruit="pear"), gold("sell", fruit="pear"), gold("twice", number=4)])
    assert call(session, "twice", number=4.0).progress == Progress(3, 2)
    assert call(session, "twice", number=4).progress == Progress(2, 2)
    # The default of `count` is as good as its value.
    assert call(session, "sell", fruit="pear", count=1).progress == Progress(2, 1)
    assert session.verdict(None) is False
    assert call(session, "sell", fruit="pear").progress == Progress(1, 0)
    assert session.verdict(None) is True
    assert call(session, "sell", fruit="pear").progress == Progress(0, 0)


def test_the_minimum_of_calls_is_the_number_of_gold_ones(folder: Folder) -> None:
    task = folder.toolset(calls=[gold("twice", number=4)], answer="8").tasks[0]
    assert (task.ground_truth.answer, task.ground_truth.minimum_calls) == ("8", 1)


def test_a_call_that_fails_is_no_progress(folder: Folder) -> None:
    session = folder.open(calls=[gold("stock", fruit="plum")], tools=["stock"])
    missing = call(session, "stock", fruit="plum")
    assert (missing.result.status, missing.result.content) == (CallStatus.TOOL_ERROR, "error: KeyError: 'plum'")
    assert missing.progress == Progress(1, 1)
    assert call(session, "stock").result.status is CallStatus.INVALID_ARGUMENTS
    hidden = call(session, "twice", number=1)
    assert (hidden.result.status, hidden.progress) == (CallStatus.UNKNOWN_TOOL, Progress(1, 1))


def test_a_state_is_reached_whatever_the_answer_says(folder: Folder) -> None:
    session = folder.open(initial_state={"stock": {"pear": 5, "plum": 1}}, state={"stock": {"plum": 1, "pear": 3}})
    assert session.verdict("done") is False
    assert call(session, "sell", fruit="pear", count=2).result.content == "3"
    assert call(session, "stock", fruit="plum").progress is None
    assert session.verdict(None) is True


def test_fields_that_the_final_state_does_not_name_are_as_they_were(folder: Folder) -> None:
    session = folder.open(initial_state={"open": False}, state={"stock": {"pear": 1}})
    call(session, "sell", fruit="pear")
    assert session.verdict(None) is True
    assert folder.open(initial_state={"open": True}, state={"open": False}).verdict(None) is False


def test_an_answer_is_compared_as_everywhere(folder: Folder) -> None:
    session = folder.open(answer=8)
    assert [session.verdict(answer) for answer in ("8.0", "9", None)] == [True, False, False]
    assert session.state_hash() == folder.open(answer=1).state_hash()


def test_a_checker_sees_the_final_state_and_the_answer(folder: Folder) -> None:
    checker = f"{folder.shop}:polite"
    assert folder.open(checker=checker).verdict("pears, please") is True
    assert folder.open(checker=checker).verdict("pears!") is False
    assert folder.open(checker=checker, initial_state={"open": False}).verdict("pears, please") is False
    assert folder.open(checker=checker, toolset=f"{folder.shop}:PURE").verdict("please") is True


def test_a_checker_that_gives_no_verdict_is_our_error(folder: Folder) -> None:
    with pytest.raises(InvalidToolset, match="task 't': its checker gave 'perhaps'; expected True, False, or None"):
        folder.open(checker=f"{folder.shop}:vague").verdict("?")


def test_tools_without_state_have_no_hash(folder: Folder) -> None:
    assert folder.open(toolset=f"{folder.shop}:PURE", answer=1).state_hash() is None


def test_the_scripted_user_speaks_in_turn(folder: Folder) -> None:
    session = folder.open(prompt=None, turns=["Hello", "Pears?", "Bye"], answer=1)
    assert [session.user_turn() for _ in range(3)] == ["Pears?", "Bye", None]
    assert folder.open(answer=1).user_turn() is None


def test_a_session_can_do_what_its_protocols_say(folder: Folder) -> None:
    session = folder.open(answer=1)
    assert isinstance(session, Dialogue)
    assert isinstance(session, Judged)
    assert isinstance(session, Forkable)


def test_a_fork_takes_state_user_and_gold_calls_with_it(folder: Folder) -> None:
    trunk = folder.open(prompt=None, turns=["a", "b", "c"], calls=[gold("sell", fruit="pear"), gold("twice", number=1)])
    call(trunk, "sell", fruit="pear")
    trunk.user_turn()
    assert isinstance(trunk, Forkable)
    branch = trunk.fork()
    assert isinstance(branch, JsonlSession)
    assert branch.state_hash() == trunk.state_hash()
    assert call(trunk, "sell", fruit="pear").result.content == "0"
    assert call(branch, "stock", fruit="pear").result.content == "1"
    assert call(branch, "twice", number=1).progress == Progress(1, 0)
    assert (trunk.verdict(None), branch.verdict(None)) == (False, True)
    assert [session.user_turn() for session in (trunk, branch)] == ["c", "c"]


def test_a_task_opens_from_its_payload_alone(folder: Folder) -> None:
    toolset = folder.toolset(calls=[gold("twice", number=4)])
    payload = json.loads(json.dumps(dict(toolset.tasks[0].payload)))
    assert payload["calls"] == [{"name": "twice", "arguments": {"number": 4}}]
    with pytest.raises(CorruptTask, match=r"task 't': its payload is not a line of .*tasks.jsonl; sample it again"):
        toolset.open(replace(toolset.tasks[0], payload={"id": "t"}))
    with pytest.raises(CorruptTask, match=r"task 't': names the tools \['steal'\], which its toolset does not have"):
        toolset.open(replace(toolset.tasks[0], tools=("steal",)))


def test_tools_may_come_from_a_toolset(folder: Folder) -> None:
    module = folder.path / f"{folder.shop}.py"
    module.write_text(
        module.read_text() + "\nfrom tool_sandbox.ledger import LedgerToolset\nLEDGER = LedgerToolset()\n"
    )
    ledger = LedgerToolset().sample_task(Split.TRAIN, "L0", 0)
    line = {
        "id": "t",
        "prompt": ledger.prompt,
        "toolset": f"{folder.shop}:LEDGER",
        "tools": list(ledger.tools),
        "initial_state": dict(ledger.payload),
        "answer": ledger.ground_truth.answer,
    }
    toolset = JsonlToolset(write_tasks(folder.path, line))

    class Oracle:
        """What the ledger's own oracle would do."""

        def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
            return LedgerToolset().demonstrator(0.0, 0).act(ledger, history)

    shown = demonstrate(toolset, toolset.tasks[0], Oracle(), max_steps=5)
    assert shown.solved is True
    assert [outcome.progress for outcome in shown.outcomes] == [Progress(1, 0)]


SALE = {"prompt": "?", "calls": [gold("stock", fruit="pear"), gold("sell", fruit="pear")]}


def played(toolset: JsonlToolset, noise: float, seed: int) -> list[Demonstration]:
    policy = toolset.demonstrator(noise, seed)
    assert policy is not None
    return [demonstrate(toolset, task, policy, max_steps=9) for task in toolset.tasks]


def names(demonstration: Demonstration) -> list[str]:
    return [action.name for action in demonstration.actions]


def test_gold_calls_demonstrate_how_a_task_is_solved(folder: Folder) -> None:
    shown = played(folder.toolset(**SALE, state={"stock": {"pear": 1}}), 0.0, 0)[0]
    assert (names(shown), shown.answer, shown.solved) == (["stock", "sell"], "done", True)
    shown = played(folder.toolset(**SALE, answer=2), 0.0, 0)[0]
    assert (names(shown), shown.answer, shown.solved) == (["stock", "sell"], "2", True)


def test_with_noise_every_step_is_preceded_by_an_error_and_the_task_is_solved(folder: Folder) -> None:
    shown = played(folder.toolset(**SALE, answer=2, tools=["stock", "sell", "twice"]), 1.0, 0)[0]
    # `twice` before `stock`, with its arguments; `stock` before `sell`, likewise; and `stock` before the answer. Never
    # `sell`, which would change what the task is about.
    assert names(shown) == ["twice", "stock", "stock", "sell", "stock"]
    assert [outcome.result.status for outcome in shown.outcomes] == [CallStatus.INVALID_ARGUMENTS] + [CallStatus.OK] * 4
    assert [outcome.progress.after for outcome in shown.outcomes if outcome.progress] == [2, 1, 1, 0, 0]
    assert (shown.answer, shown.solved) == ("2", True)


def test_noise_is_a_share_of_steps_and_repeats_with_its_seed(folder: Folder) -> None:
    line = {"toolset": f"{folder.shop}:TOOLS", "prompt": "?", "answer": 8, "calls": [gold("twice", number=4)]}
    toolset = JsonlToolset(write_tasks(folder.path, *(line | {"id": f"t{index}"} for index in range(200))))
    lengths = [len(shown.actions) for shown in played(toolset, 0.25, 7)]
    assert lengths == [len(shown.actions) for shown in played(toolset, 0.25, 7)]
    assert lengths != [len(shown.actions) for shown in played(toolset, 0.25, 8)]
    # One call, and an error before it and before the answer with a quarter's chance each: 400 throws.
    assert sum(lengths) - 200 == pytest.approx(100, abs=35)


def test_tasks_that_gold_calls_do_not_lead_through_have_no_demonstrator(folder: Folder) -> None:
    calls = SALE["calls"]
    assert folder.toolset(answer=2).demonstrator(0.0, 0) is None
    assert folder.toolset(calls=calls, checker=f"{folder.shop}:polite").demonstrator(0.0, 0) is None
    assert folder.toolset(prompt=None, turns=["a", "b"], calls=calls).demonstrator(0.0, 0) is None


SPEC = ToolSpec("f", "", {"type": "object", "properties": {"b": {"default": 2}, "c": True}})
VALUES = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3), st.lists, max_leaves=4
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=5), st.randoms())
def test_a_shuffled_solution_is_a_solution(calls: list[dict[str, Any]], shuffler: Any) -> None:
    missing = GoldCalls(call_key(SPEC, arguments) for arguments in calls)
    shuffled = list(calls)
    shuffler.shuffle(shuffled)
    left = [len(calls)]
    for arguments in shuffled:
        missing.observe(call_key(SPEC, json.loads(json.dumps(arguments))))
        left.append(missing.remaining)
    assert left == list(range(len(calls), -1, -1))


def test_keys_tell_what_matters_from_what_does_not() -> None:
    assert call_key(SPEC, {"a": 1.0}) == call_key(SPEC, {"b": 2, "a": 1})
    assert call_key(SPEC, {"a": 1.5}) != call_key(SPEC, {"a": 1})
    assert call_key(SPEC, {"a": [1.0, {"x": 2.0}]}) == call_key(SPEC, {"a": [1, {"x": 2}]})
