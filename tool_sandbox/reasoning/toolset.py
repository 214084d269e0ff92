"""Questions of `reasoning-gym` as a toolset: a level is a dataset, an index is a seed.

A question belongs to the split that a hash of its text says, so that no question of one split occurs in another,
whatever seed makes it again: 80 % train, 10 % val, 10 % test_iid. An index tries seeds of its own until one gives a
question of the wanted split.
"""

from __future__ import annotations

import hashlib
import re

from tool_sandbox.errors import CorruptTask, NoSuchTask
from tool_sandbox.isolation.python_tool import PYTHON_SPEC
from tool_sandbox.reasoning.calculator import CALCULATOR_SPEC
from tool_sandbox.reasoning.package import DATASETS, installed_version, question
from tool_sandbox.reasoning.policy import CalculatorPolicy
from tool_sandbox.reasoning.session import ReasoningSession, Runner
from tool_sandbox.tasks import GroundTruth, Split, Task
from tool_sandbox.tiers import run_python
from tool_sandbox.tools import ToolSpec

TOOLSET = "reasoning"
SPLITS = (Split.TRAIN, Split.VAL, Split.TEST_IID)
TRAIN_BUCKETS = 80
VAL_BUCKETS = 90
_ID = re.compile(rf"{TOOLSET}/({'|'.join(DATASETS)})/(0|[1-9]\d{{0,8}})", re.ASCII)
ATTEMPTS = 1000
"""Seeds of one index. A tenth of the questions is in the smallest split: 1,000 in a row outside it do not happen."""


class ReasoningToolset:
    """Questions with short answers, and two tools to work them out."""

    name = TOOLSET

    def __init__(self, python: Runner = run_python) -> None:
        """`python` runs calls of the `python` tool.

        Raises:
            InvalidToolset: the package is not installed.
        """
        self._version = installed_version()
        self._python = python

    def specs(self) -> tuple[ToolSpec, ...]:
        return (CALCULATOR_SPEC, PYTHON_SPEC)

    def levels(self) -> tuple[str, ...]:
        return DATASETS

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """The `index`-th question of a split and dataset. Raises `NoSuchTask` where there is no such split or level."""
        if level not in DATASETS or split not in SPLITS:
            raise NoSuchTask(
                f"reasoning: no level {level!r} in split {split.value!r}; levels are {', '.join(DATASETS)}, splits "
                f"{', '.join(one.value for one in SPLITS)}"
            )
        for seed in range(index * ATTEMPTS, (index + 1) * ATTEMPTS):
            entry = question(level, seed)
            if _split(level, entry["question"]) is split:
                return self._task(split, level, seed, entry["question"], entry["answer"])
        raise NoSuchTask(f"reasoning: {ATTEMPTS} seeds of index {index} gave no {split.value!r} question of {level!r}")

    def find_task(self, task_id: str) -> Task:
        """The question of an id that `sample_task` gave. Raises `NoSuchTask` where there is none."""
        found = _ID.fullmatch(task_id)
        if found is None:
            raise NoSuchTask(f"reasoning: {task_id[:80]!r} is the id of no task; expected {TOOLSET}/DATASET/SEED")
        dataset, seed = found[1], int(found[2])
        entry = question(dataset, seed)
        return self._task(_split(dataset, entry["question"]), dataset, seed, entry["question"], entry["answer"])

    def demonstrator(self, noise: float, seed: int) -> CalculatorPolicy:
        """One call of the calculator, for the datasets that one expression answers."""
        return CalculatorPolicy(noise, seed)

    def open(self, task: Task) -> ReasoningSession:
        """A session of the question.

        Raises:
            CorruptTask: the task was sampled with another version of the package.
        """
        if task.payload.get("version") != self._version:
            raise CorruptTask(
                f"task {task.id!r}: made with reasoning-gym {task.payload.get('version')}, installed is "
                f"{self._version}; sample it again, or install that version"
            )
        isolated = {PYTHON_SPEC.name: self._python} if PYTHON_SPEC.name in task.tools else {}
        dataset, seed = task.payload["dataset"], task.payload["seed"]
        return ReasoningSession(dataset, question(dataset, seed), isolated)

    def _task(self, split: Split, dataset: str, seed: int, prompt: str, answer: str) -> Task:
        return Task(
            id=f"{TOOLSET}/{dataset}/{seed}",
            toolset=TOOLSET,
            prompt=prompt,
            tools=(CALCULATOR_SPEC.name, PYTHON_SPEC.name),
            ground_truth=GroundTruth(answer=answer),
            level=dataset,
            split=split,
            payload={"dataset": dataset, "seed": seed, "version": self._version},
        )


def _split(dataset: str, text: str) -> Split:
    digest = hashlib.sha256(f"reasoning {dataset} {text}".encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    return Split.TRAIN if bucket < TRAIN_BUCKETS else Split.VAL if bucket < VAL_BUCKETS else Split.TEST_IID
