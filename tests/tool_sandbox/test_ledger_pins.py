"""The tasks of the first four levels never change: presets and committed models were trained on them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tool_sandbox.demonstrations import Demonstration, demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.tasks import Split, Task

LEDGER = LedgerToolset()

TASKS = {
    ("train", "L0"): "0f888ef2005c7803",
    ("train", "L1"): "8205faab410fca0f",
    ("train", "L2"): "53c6a222e04631a3",
    ("train", "L3"): "6c3ef6078592f9ba",
    ("val", "L0"): "d3a096bbbb2d2c1b",
    ("val", "L1"): "3a8184229c6c323d",
    ("val", "L2"): "f310b11e06c3756b",
    ("val", "L3"): "b4fedc89dad4cbc8",
    ("test_iid", "L0"): "f8131433978185e9",
    ("test_iid", "L1"): "91e8794c9ef302a2",
    ("test_iid", "L2"): "473be3fe63614d04",
    ("test_iid", "L3"): "9505a546d5717294",
    ("test_tools", "L0"): "d4f09e548c72d078",
    ("test_tools", "L1"): "be60bd8a4eb8b9e2",
    ("test_tools", "L2"): "703856d88141d201",
    ("test_tools", "L3"): "52ec18237e47fc8b",
    ("test_comp", "L1"): "5ed60a0a83935721",
    ("test_comp", "L2"): "e116f69a4d265c97",
    ("test_comp", "L3"): "4a497d738dccc622",
    ("test_depth", "L2"): "62440c973b266f63",
    ("test_depth", "L3"): "ad6797dda89e0f28",
}
"""Digest of the tasks 0 to 19, 500123 and 1000000, as the first release of the generator drew them."""

DEMONSTRATIONS = {
    "L0": "7808db5b1e5eb1b7",
    "L1": "faa8b567e7e1ddf9",
    "L2": "38b170f9bf9c1347",
    "L3": "1770507e0dfb63b1",
}
"""Digest of what the noisy oracle (noise 0.4, seed 7) did on the training tasks 500000 to 500019."""


def digest(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def task_row(task: Task) -> list[Any]:
    truth = task.ground_truth
    head = [task.id, task.toolset, task.prompt, task.tools, truth.answer, truth.state_hash, truth.minimum_calls]
    return [*head, task.level, task.split.value, task.payload]


def run_row(run: Demonstration) -> list[Any]:
    rows: list[Any] = [[call.name, dict(call.arguments)] for call in run.actions]
    for outcome in run.outcomes:
        assert outcome.progress is not None
        result, progress = outcome.result, outcome.progress
        rows.append([result.status.value, result.content, progress.before, progress.after])
    return [*rows, run.answer, run.solved]


@pytest.mark.parametrize(("split", "level"), TASKS)
def test_the_tasks_of_the_first_levels_are_those_of_the_first_release(split: str, level: str) -> None:
    tasks = [LEDGER.sample_task(Split(split), level, index) for index in (*range(20), 1_000_000, 500_123)]
    assert digest([task_row(task) for task in tasks]) == TASKS[split, level]


@pytest.mark.parametrize("level", DEMONSTRATIONS)
def test_warm_starts_on_the_first_levels_are_those_of_the_first_release(level: str) -> None:
    policy = LEDGER.demonstrator(0.4, 7)
    tasks = (LEDGER.sample_task(Split.TRAIN, level, 500_000 + index) for index in range(20))
    assert digest([run_row(demonstrate(LEDGER, task, policy, 10)) for task in tasks]) == DEMONSTRATIONS[level]
