"""A file of tasks as a toolset: reads it, has it checked, and opens sessions of its tasks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

from pydantic import ValidationError

from tool_sandbox.errors import CorruptTask, NoSuchTask
from tool_sandbox.jsonl.checks import check_lines, checker, final_state
from tool_sandbox.jsonl.demonstrator import GoldPolicy, can_demonstrate
from tool_sandbox.jsonl.gold import call_key
from tool_sandbox.jsonl.lines import Complaints, TaskLine, read_lines
from tool_sandbox.jsonl.session import JsonlSession, Script, open_session
from tool_sandbox.jsonl.sources import ListedTools, ToolSources
from tool_sandbox.registry import JSONL_PREFIX
from tool_sandbox.tasks import GroundTruth, Split, Task
from tool_sandbox.tools import ToolSpec

BUCKETS = 100
TRAIN_BUCKETS = 80
VAL_BUCKETS = 90
"""Without a split of its own, of 100 tasks 80 go to train, 10 to val and 10 to test_iid."""


class JsonlToolset:
    """The tasks of one file. They are finitely many: `sample_task` counts round and round through them."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """`name`: under which a package registers the toolset; None means `jsonl:` and the absolute path.

        Raises:
            InvalidToolset: the file cannot be read, or has errors; the message lists all of them by line.
        """
        self._path = path.expanduser().resolve()
        self.name = name or f"{JSONL_PREFIX}{self._path}"
        self._sources = ToolSources(self._path.parent)
        complaints = Complaints(self._path)
        lines = read_lines(self._path, complaints)
        check_lines(lines, self._sources, self._path.parent, complaints)
        complaints.finish()
        self._demonstrable = all(can_demonstrate(line) for line in lines.values())
        self._tasks = tuple(self._task(line) for line in lines.values())
        self._places: defaultdict[tuple[Split, str], list[Task]] = defaultdict(list)
        for task in self._tasks:
            self._places[task.split, task.level].append(task)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task, in the order of the file."""
        return self._tasks

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools of all sources that the file names."""
        return self._sources.specs()

    def levels(self) -> tuple[str, ...]:
        """In the order in which the file first names them."""
        return tuple(dict.fromkeys(task.level for task in self._tasks))

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """The `index`-th task of a split and level, in the order of the file and from its start again.

        Raises:
            NoSuchTask: there is none.
        """
        fitting = self._places.get((split, level))
        if fitting is None:
            present = ", ".join(sorted(f"{each.value}/{name}" for each, name in self._places))
            raise NoSuchTask(
                f"tasks {self._path}: none of split {split.value!r} and level {level!r}; there are {present}"
            )
        return fitting[index % len(fitting)]

    def find_task(self, task_id: str) -> Task:
        """The task of that id in the file. Raises `NoSuchTask` where there is none."""
        found = next((task for task in self._tasks if task.id == task_id), None)
        if found is None:
            raise NoSuchTask(f"tasks {self._path}: none has the id {task_id[:80]!r}")
        return found

    def demonstrator(self, noise: float, seed: int) -> GoldPolicy | None:
        """A policy that makes the gold calls; None unless every task can be led through by them."""
        if not self._demonstrable:
            return None
        return GoldPolicy({spec.name: spec for spec in self.specs()}, noise, seed)

    def open(self, task: Task) -> JsonlSession:
        """A session in the task's initial state.

        Raises:
            CorruptTask: the payload is not a line of such a file, or names a tool that is not there.
            InvalidTool: the source of its tools, or its checker, is not there any more.
        """
        try:
            line = TaskLine.model_validate(task.payload)
        except ValidationError as error:
            raise CorruptTask(
                f"task {task.id!r}: its payload is not a line of {self._path}; sample it again"
            ) from error
        tools = self._sources.tools(line.toolset)
        script = Script(
            task=task,
            specs=_offered(task, tools),
            turns=line.script[1:],
            gold=tuple(call_key(tools.specs[call.name], call.arguments) for call in line.calls or ()),
            checker=checker(line, self._path.parent),
        )
        return open_session(script, tools.source.open(task, line.initial_state))

    def _task(self, line: TaskLine) -> Task:
        tools = self._sources.tools(line.toolset)
        return Task(
            id=line.id,
            toolset=self.name,
            prompt=line.script[0],
            tools=line.tools or tuple(tools.specs),
            ground_truth=_ground_truth(line, tools),
            level=line.level,
            split=line.split or split_of(line.id),
            payload=line.model_dump(mode="json", exclude_none=True),
        )


def split_of(task_id: str) -> Split:
    """The split of a task by a hash of its id: the same in every process, whatever else the file holds."""
    bucket = int.from_bytes(hashlib.blake2b(task_id.encode(), digest_size=8).digest(), "big") % BUCKETS
    return Split.TRAIN if bucket < TRAIN_BUCKETS else Split.VAL if bucket < VAL_BUCKETS else Split.TEST_IID


def _ground_truth(line: TaskLine, tools: ListedTools) -> GroundTruth:
    wanted = final_state(line)
    state = None if wanted is None else tools.source.state_hash(wanted)
    return GroundTruth(line.answer, state, len(line.calls) if line.calls else None)


def _offered(task: Task, tools: ListedTools) -> dict[str, ToolSpec]:
    missing = [name for name in task.tools if name not in tools.specs]
    if missing:
        raise CorruptTask(
            f"task {task.id!r}: names the tools {missing}, which its toolset does not have; sample it again"
        )
    return {name: tools.specs[name] for name in task.tools}
