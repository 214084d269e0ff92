"""BFCL multi-turn as a toolset: which dialogue is which task, and how a session of it is opened.

The four levels vary the same 200 dialogues, so the number of a dialogue decides its split and all its variants go the
same way: 60 % train, 10 % val, 30 % test_iid, by hash. Training goes round its tasks again and again; a held-out split
ends.
"""

from __future__ import annotations

import hashlib
from functools import cache

from tool_sandbox.bfcl.documents import tool_specs
from tool_sandbox.bfcl.package import LEVELS, Entry, entries, entry, function_documents, installed_version
from tool_sandbox.bfcl.policies import ReplayPolicy
from tool_sandbox.bfcl.session import BfclSession
from tool_sandbox.demonstrations import Policy
from tool_sandbox.errors import CorruptTask, NoSuchTask
from tool_sandbox.tasks import GroundTruth, Split, Task
from tool_sandbox.tools import ToolSpec

TOOLSET = "bfcl"
SPLITS = (Split.TRAIN, Split.VAL, Split.TEST_IID)
TRAIN_BUCKETS = 60
VAL_BUCKETS = 70


class BfclToolset:
    """The 800 multi-turn dialogues of the installed `bfcl-eval`."""

    name = TOOLSET

    def __init__(self) -> None:
        """Raises `InvalidToolset` where the package is not installed."""
        self._version = installed_version()

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool_specs().values())

    def levels(self) -> tuple[str, ...]:
        return LEVELS

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """The `index`-th task of a split and level; training starts again where it has gone through all.

        Raises:
            NoSuchTask: the level or the split does not exist, or the held-out split has no such index.
        """
        if level not in LEVELS or split not in SPLITS:
            raise NoSuchTask(
                f"bfcl: no level {level!r} in split {split.value!r}; levels are {', '.join(LEVELS)}, splits "
                f"{', '.join(one.value for one in SPLITS)}"
            )
        found = _members(split, level)
        if split is not Split.TRAIN and index >= len(found):
            raise NoSuchTask(
                f"bfcl: split {split.value!r} has {len(found)} tasks of level {level!r}, asked for index {index}; a "
                "benchmark is finite: evaluate fewer tasks (evaluation.tasks)"
            )
        return self._task(found[index % len(found)], split)

    def find_task(self, task_id: str) -> Task:
        """The task of an id that `sample_task` gave. Raises `NoSuchTask` where there is none."""
        try:
            dialogue = entry(task_id.removeprefix(f"{TOOLSET}/"))
        except KeyError as error:
            raise NoSuchTask(f"bfcl: {task_id[:80]!r} is the id of no task; expected {TOOLSET}/DIALOGUE") from error
        return self._task(dialogue, _split(dialogue.number))

    def demonstrator(self, noise: float, seed: int) -> Policy:
        """The ground truth, call by call; each call is preceded by an error with probability `noise`."""
        return ReplayPolicy(noise, seed)

    def open(self, task: Task) -> BfclSession:
        """A fresh session at the first turn of the user.

        Raises:
            CorruptTask: the task was sampled with another version of the package.
        """
        if task.payload.get("version") != self._version:
            raise CorruptTask(
                f"task {task.id!r}: made with bfcl-eval {task.payload.get('version')}, installed is {self._version}; "
                "sample it again, or install that version"
            )
        return BfclSession(entry(task.payload["entry"]))

    def _task(self, dialogue: Entry, split: Split) -> Task:
        assert dialogue.turns[0] is not None, "every dialogue begins with a request"
        return Task(
            id=f"{TOOLSET}/{dialogue.id}",
            toolset=TOOLSET,
            prompt=dialogue.turns[0],
            tools=_offered(dialogue),
            ground_truth=GroundTruth(minimum_calls=sum(len(calls) for calls in dialogue.ground_truth)),
            level=dialogue.level,
            split=split,
            payload={"entry": dialogue.id, "version": self._version},
        )


def _offered(dialogue: Entry) -> tuple[str, ...]:
    """The tools of the first turn: all of the classes, but for those that come later or never."""
    withheld = {*dialogue.excluded, *(name for names in dialogue.added.values() for name in names)}
    documents = (document["name"] for name in dialogue.classes for document in function_documents(name))
    return tuple(name for name in documents if name not in withheld)


@cache
def _members(split: Split, level: str) -> tuple[Entry, ...]:
    """The dialogues of a split, in an order that mixes their classes."""
    found = [dialogue for dialogue in entries(level).values() if _split(dialogue.number) is split]
    return tuple(sorted(found, key=lambda dialogue: _hash(f"order {dialogue.number}")))


def _split(number: int) -> Split:
    bucket = _hash(f"split {number}") % 100
    return Split.TRAIN if bucket < TRAIN_BUCKETS else Split.VAL if bucket < VAL_BUCKETS else Split.TEST_IID


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"bfcl multi-turn {text}".encode()).digest()[:8], "big")
