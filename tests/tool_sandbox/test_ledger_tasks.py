"""Sampled tasks: stable, sound, and split so that no task of one split occurs in another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tool_sandbox.errors import CorruptTask, NoSuchTask
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.splits import is_reserved_pair, split_of
from tool_sandbox.ledger.tools import TOOLS, family_of
from tool_sandbox.ledger.variants import offered
from tool_sandbox.tasks import Split, Task

LEDGER = LedgerToolset()
PLACES = [(split, level) for split in Split for level in LEDGER.levels() if LEDGER.has_tasks(split, level)]
IID = (Split.TRAIN, Split.VAL, Split.TEST_IID)
PER_PLACE = 100


@cache
def sampled(split: Split, level: str) -> tuple[Task, ...]:
    return tuple(LEDGER.sample_task(split, level, index) for index in range(PER_PLACE))


def everything() -> list[Task]:
    return [task for place in PLACES for task in sampled(*place)]


def plan_of_task(task: Task) -> Plan:
    return Plan.from_json(task.payload["plan"])


def plain_tools(task: Task) -> list[str]:
    """Plain names of the offered tools; without `login`, which belongs to a fault."""
    return [name for name in offered(task.tools) if name != "login"]


def test_every_split_has_its_levels() -> None:
    assert LEDGER.levels() == ("L0", "L1", "L2", "L2F", "L3", "L3F", "L4")
    assert len(PLACES) == 4 * 7 + 6 + 5
    with pytest.raises(NoSuchTask, match="'test_comp' has no level 'L0'; it has L1, L2, L2F, L3, L3F, L4"):
        LEDGER.sample_task(Split.TEST_COMP, "L0", 0)
    with pytest.raises(NoSuchTask, match="'train' has no level 'L9'"):
        LEDGER.sample_task(Split.TRAIN, "L9", 0)


def test_ids_are_readable_and_unique() -> None:
    assert LEDGER.sample_task(Split.TRAIN, "L1", 123).id == "ledger/L1/train/123"
    ids = [task.id for task in everything()]
    assert len(ids) == len(set(ids))


def test_the_same_arguments_give_the_same_task_in_another_process() -> None:
    places = [(split, level, 17) for split, level in PLACES]
    script = (
        "import json; from tool_sandbox.ledger import LedgerToolset as L; from tool_sandbox.tasks import Split\n"
        f"for s, l, i in {[(split.value, level, index) for split, level, index in places]!r}:\n"
        "    t = L().sample_task(Split(s), l, i); g = t.ground_truth\n"
        "    print(json.dumps([t.id, t.prompt, t.tools, g.answer, g.state_hash, t.payload]))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    for line, place in zip(run.stdout.splitlines(), places, strict=True):
        task = LEDGER.sample_task(*place)
        truth = task.ground_truth
        expected = [task.id, task.prompt, task.tools, truth.answer, truth.state_hash, task.payload]
        assert json.loads(line) == json.loads(json.dumps(expected))


def test_no_question_of_one_split_occurs_in_another() -> None:
    owners: dict[str, set[Split]] = {}
    for task in everything():
        owners.setdefault(plan_of_task(task).signature(), set()).add(task.split)
    assert len(owners) > 1200
    assert all(len(splits) == 1 for splits in owners.values())
    assert all(split_of(plan_of_task(task)) is task.split for task in everything())


def test_the_signature_alone_decides_the_split_whatever_the_wording() -> None:
    prompts: dict[str, set[str]] = {}
    for index in range(1500):
        task = LEDGER.sample_task(Split.TRAIN, "L0", index)
        prompts.setdefault(plan_of_task(task).signature(), set()).add(task.prompt)
    assert max(len(wordings) for wordings in prompts.values()) > 1


def test_train_val_and_test_iid_use_the_same_tools_about_equally_often() -> None:
    for level in ("L0", "L1", "L2"):
        shares = {}
        for split in IID:
            counts = Counter(tool for index in range(300) for tool in plan_of_task(_task(split, level, index)).tools)
            shares[split] = {tool: count / 300 for tool, count in counts.items()}
        for tool, share in shares[Split.TRAIN].items():
            # Four standard deviations of the difference of two shares of 300 tasks, at most 0.16.
            bound = 4 * (2 * max(share, 0.02) * (1 - min(share, 0.98)) / 300) ** 0.5
            for split in (Split.VAL, Split.TEST_IID):
                assert abs(shares[split].get(tool, 0.0) - share) < bound, (level, tool, split)


@cache
def _task(split: Split, level: str, index: int) -> Task:
    return LEDGER.sample_task(split, level, index)


def test_the_reserved_family_occurs_only_in_test_tools() -> None:
    for task in everything():
        families = {family_of(tool) for tool in plain_tools(task)}
        assert ("text" in {family_of(tool) for tool in plan_of_task(task).tools}) is (task.split is Split.TEST_TOOLS)
        assert "text" not in families or task.split is Split.TEST_TOOLS


def test_reserved_pairs_are_adjacent_only_in_test_comp() -> None:
    for task in everything():
        reserved = any(is_reserved_pair(*pair) for pair in plan_of_task(task).pairs)
        if task.split in (*IID, Split.TEST_DEPTH):
            assert not reserved
        elif task.split is Split.TEST_COMP:
            assert reserved


def test_every_tool_outside_the_reserved_family_is_needed_somewhere_in_training() -> None:
    needed = {
        tool
        for level in LEDGER.levels()
        for i in range(300)
        for tool in plan_of_task(_task(Split.TRAIN, level, i)).tools
    }
    assert needed == {tool for tool in TOOLS if family_of(tool) != "text"}


def test_levels_have_the_calls_that_they_promise() -> None:
    calls = {"L0": {1}, "L1": {2}, "L2": {3, 4}, "L3": {2, 3, 4}, "L4": {6, 7, 8}}
    for split, level in PLACES:
        deep = {9, 10} if level == "L4" else {5, 6}
        found = {len(plan_of_task(task).calls) for task in sampled(split, level)}
        assert found == (deep if split is Split.TEST_DEPTH else calls[level.removesuffix("F")])
        if not level.endswith("F"):
            assert all(task.ground_truth.minimum_calls == len(plan_of_task(task).calls) for task in sampled(split, level))


def test_prompts_are_short_and_do_not_give_the_answer_away() -> None:
    for task in everything():
        words = task.prompt.lower().strip(".?").split()
        assert len(words) <= (40 if task.level == "L4" else 25)
        assert task.ground_truth.answer not in words


def test_a_task_offers_what_it_needs_and_two_or_three_more() -> None:
    positions: Counter[int] = Counter()
    for task in everything():
        needed, tools = set(plan_of_task(task).tools), plain_tools(task)
        assert needed <= set(tools)
        assert len(set(tools)) == len(tools)
        assert len(tools) - len(needed) in (2, 3)
        positions[tools.index(min(needed))] += 1
        if not task.level.startswith("L3"):
            assert all(TOOLS[tool].spec.read_only for tool in tools)
        if task.level in ("L4", "L2F"):
            assert all(len(TOOLS[tool].parameters) == 1 for tool in tools)
    assert min(positions[place] for place in range(3)) > 150


def test_exactly_one_kind_of_ground_truth() -> None:
    for task in everything():
        truth = task.ground_truth
        assert (truth.answer is None) is task.level.startswith("L3")
        assert (truth.state_hash is None) is not task.level.startswith("L3")


def test_a_task_of_another_generator_is_refused() -> None:
    task = LEDGER.sample_task(Split.TRAIN, "L0", 0)
    with pytest.raises(CorruptTask, match=r"made by generator 'ledger/0'.*sample the task again"):
        LEDGER.open(replace(task, payload={**task.payload, "generator": "ledger/0"}))
    with pytest.raises(CorruptTask, match="does not describe a world"):
        LEDGER.open(replace(task, payload={"generator": task.payload["generator"]}))
    with pytest.raises(CorruptTask, match=r"names the tools \['teleport'\]"):
        LEDGER.open(replace(task, tools=(*task.tools, "teleport")))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), st.integers(min_value=0, max_value=10**9))
def test_a_payload_survives_json_and_rebuilds_the_same_world(place: tuple[Split, str], index: int) -> None:
    task = LEDGER.sample_task(*place, index)
    copy = replace(task, payload=json.loads(json.dumps(task.payload)))
    assert LEDGER.open(copy).state_hash() == LEDGER.open(task).state_hash()
