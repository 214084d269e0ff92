"""A task found again by its id is the one that was sampled; and a policy goes on where somebody else left a session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tool_sandbox.shop import shop_folder, write_tasks
from tool_sandbox.demonstrations import Past, demonstrate, play_on
from tool_sandbox.errors import NoSuchTask
from tool_sandbox.jsonl import JsonlToolset
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import FindsTasks, PlaysAtRandom
from tool_sandbox.tasks import Split
from tool_sandbox.tools import ToolCall

LEDGER = LedgerToolset()
PLACES = [(split, level) for split in Split for level in LEDGER.levels() if LEDGER.has_tasks(split, level)]
STRANGE = ToolCall("c", "no_such_function", {})


@pytest.mark.parametrize(("split", "level"), PLACES)
def test_a_ledger_task_is_found_by_its_id(split: Split, level: str) -> None:
    task = LEDGER.sample_task(split, level, 7)
    assert task.id == f"ledger/{level}/{split.value}/7"
    assert LEDGER.find_task(task.id) == task


@pytest.mark.parametrize(
    "name", ["ledger/L1/train", "ledger/L1/train/07", "ledger/L1/train/-1", "ledger/L1/dev/1", "ledger/L9/train/1", "x"]
)
def test_no_other_id_is_a_ledger_task(name: str) -> None:
    with pytest.raises(NoSuchTask):
        LEDGER.find_task(name)


def test_a_question_of_reasoning_is_found_by_its_id() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")
    reasoning = load_toolset("reasoning")
    assert isinstance(reasoning, FindsTasks)
    for split in (Split.TRAIN, Split.VAL, Split.TEST_IID):
        task = reasoning.sample_task(split, "gcd", 3)
        assert reasoning.find_task(task.id) == task
    for name in ("reasoning/gcd/x", "reasoning/sudoku/1", "ledger/L1/train/1"):
        with pytest.raises(NoSuchTask):
            reasoning.find_task(name)


def test_a_dialogue_of_bfcl_is_found_by_its_id() -> None:
    pytest.importorskip("bfcl_eval", reason="the extra `bfcl` is not installed")
    bfcl = load_toolset("bfcl")
    assert isinstance(bfcl, FindsTasks)
    for split in (Split.TRAIN, Split.TEST_IID):
        task = bfcl.sample_task(split, "miss_func", 3)
        assert bfcl.find_task(task.id) == task
    for name in ("bfcl/multi_turn_base_200", "bfcl/multi_turn_none_1", "bfcl", ""):
        with pytest.raises(NoSuchTask):
            bfcl.find_task(name)


def test_a_line_of_a_file_is_found_by_its_id(tmp_path: Path) -> None:
    with shop_folder(tmp_path) as name:
        lines = [{"id": f"shop-{n}", "prompt": "How many?", "toolset": f"{name}:TOOLS", "answer": n} for n in (1, 2)]
        shop = JsonlToolset(write_tasks(tmp_path, *lines))
    assert shop.find_task("shop-2") == shop.tasks[1]
    with pytest.raises(NoSuchTask, match="none has the id 'shop-3'"):
        shop.find_task("shop-3")


def test_the_ledger_plays_at_random_with_dice_of_the_seed() -> None:
    assert isinstance(LEDGER, PlaysAtRandom)
    task = LEDGER.sample_task(Split.TRAIN, "L2", 0)
    one, same, other = (demonstrate(LEDGER, task, LEDGER.random_policy(seed), 12).actions for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_policy_goes_on_in_a_session_where_somebody_else_left_it() -> None:
    task = LEDGER.sample_task(Split.TRAIN, "L1", 0)
    way = demonstrate(LEDGER, task, LEDGER.demonstrator(0.0, 0), 8)
    session = LEDGER.open(task)
    past = Past().called(way.actions[0], session.call(way.actions[0]))
    after, answer = play_on(session, task, LEDGER.demonstrator(0.0, 0), 2, past)
    assert [exchange.call for exchange in after.history] == list(way.actions)
    assert answer == task.ground_truth.answer


@pytest.mark.parametrize("word", ["²", "5--"])
def test_a_policy_goes_on_after_a_word_that_only_looks_like_a_number(word: str) -> None:
    task = replace(LEDGER.sample_task(Split.TRAIN, "L1", 0), tools=("reverse", "price", "item", "order", "color"))
    session, call = LEDGER.open(task), ToolCall("c", "reverse", {"word": word})
    past = Past().called(call, session.call(call))
    assert past.history[0].outcome.result.content == word[::-1]
    for policy in (LEDGER.random_policy(0), *(LEDGER.demonstrator(1.0, seed) for seed in range(8))):
        assert play_on(LEDGER.open(task), task, policy, 3, past)[0].history[0] == past.history[0]


def test_the_way_through_a_dialogue_goes_on_after_calls_that_nobody_owed() -> None:
    pytest.importorskip("bfcl_eval", reason="the extra `bfcl` is not installed")
    bfcl = load_toolset("bfcl")
    assert isinstance(bfcl, FindsTasks)
    task = bfcl.find_task("bfcl/multi_turn_base_147")
    session, policy = bfcl.open(task), bfcl.demonstrator(0.0, 0)
    assert policy is not None
    past, _ = play_on(session, task, policy, 2, Past())
    past = past.called(STRANGE, session.call(STRANGE))
    after, answer = play_on(session, task, policy, 20, past)
    assert answer is not None
    assert len(after.turns) == 1
