"""A file of tasks as a toolset: reads it, checks it whole, and opens sessions of its tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tool_sandbox.arguments import check_arguments
from tool_sandbox.errors import CorruptTask, InvalidTool, NoSuchTask
from tool_sandbox.jsonl.gold import call_key
from tool_sandbox.jsonl.lines import Complaints, TaskLine, read_lines
from tool_sandbox.jsonl.session import JsonlSession, Script, open_session
from tool_sandbox.jsonl.sources import ToolSource, resolve, tool_source
from tool_sandbox.registry import JSONL_PREFIX
from tool_sandbox.tasks import GroundTruth, Split, Task
from tool_sandbox.tools import ToolCall, ToolSpec

BUCKETS = 100
TRAIN_BUCKETS = 80
VAL_BUCKETS = 90
"""Without a split of its own, of 100 tasks 80 go to train, 10 to val and 10 to test_iid."""


@dataclass(frozen=True, slots=True)
class _Tools:
    """One source, listed once."""

    source: ToolSource
    specs: Mapping[str, ToolSpec]


class JsonlToolset:
    """The tasks of one file. They are finitely many: `sample_task` counts round and round through them."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """`name`: under which a package registers the toolset; None means `jsonl:` and the absolute path.

        Raises:
            InvalidToolset: the file cannot be read, or has errors; the message lists all of them by line.
        """
        self._path = path.expanduser().resolve()
        self.name = name or f"{JSONL_PREFIX}{self._path}"
        self._sources: dict[str, _Tools | InvalidTool] = {}
        complaints = Complaints(self._path)
        lines = read_lines(self._path, complaints)
        for number, line in lines.items():
            for complaint in self._complaints(line):
                complaints.add(number, complaint)
        for number, complaint in self._clashes(lines):
            complaints.add(number, complaint)
        complaints.finish()
        self._tasks = tuple(self._task(line) for line in lines.values())

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task, in the order of the file."""
        return self._tasks

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools of all sources."""
        known = (tools.specs for tools in self._sources.values() if isinstance(tools, _Tools))
        return tuple({name: spec for specs in known for name, spec in specs.items()}.values())

    def levels(self) -> tuple[str, ...]:
        """In the order in which the file first names them."""
        return tuple(dict.fromkeys(task.level for task in self._tasks))

    def has_tasks(self, split: Split, level: str) -> bool:
        """Whether any task is of the split and level."""
        return any((task.split, task.level) == (split, level) for task in self._tasks)

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """The `index`-th task of a split and level, in the order of the file and from its start again.

        Raises:
            NoSuchTask: there is none.
        """
        fitting = [task for task in self._tasks if (task.split, task.level) == (split, level)]
        if not fitting:
            present = sorted({f"{task.split.value}/{task.level}" for task in self._tasks})
            raise NoSuchTask(
                f"tasks {self._path}: none of split {split.value!r} and level {level!r}; there are {', '.join(present)}"
            )
        return fitting[index % len(fitting)]

    def demonstrator(self, noise: float, seed: int) -> None:
        """Nobody demonstrates: gold calls say what to call, not what to say."""
        return

    def open(self, task: Task) -> JsonlSession:
        """A session in the task's initial state.

        Raises:
            CorruptTask: the payload is not a line of such a file.
            InvalidTool: a tool or checker that it names is not there any more.
        """
        try:
            line = TaskLine.model_validate(task.payload)
        except ValidationError as error:
            raise CorruptTask(
                f"task {task.id!r}: its payload is not a line of {self._path}; sample it again"
            ) from error
        tools = self._tools(line)
        specs = {name: tools.specs[name] for name in task.tools}
        checker = None if line.checker is None else resolve(line.checker, self._path.parent)
        script = Script(task, specs, line.script[1:], _gold(line, tools), checker)
        return open_session(script, tools.source.open(task, line.initial_state))

    def _task(self, line: TaskLine) -> Task:
        tools = self._tools(line)
        return Task(
            id=line.id,
            toolset=self.name,
            prompt=line.script[0],
            tools=line.tools or tuple(tools.specs),
            ground_truth=_ground_truth(line, tools.source),
            level=line.level,
            split=line.split or split_of(line.id),
            payload=line.model_dump(mode="json", exclude_none=True),
        )

    def _tools(self, line: TaskLine) -> _Tools:
        """The tools of a line, listed when they are first asked for. Raises `InvalidTool`, each time the same."""
        key = line.toolset.model_dump_json() if isinstance(line.toolset, BaseModel) else line.toolset
        if key not in self._sources:
            self._sources[key] = self._listed(line.toolset)
        tools = self._sources[key]
        if isinstance(tools, InvalidTool):
            raise tools
        return tools

    def _listed(self, named: str | BaseModel) -> _Tools | InvalidTool:
        try:
            source = tool_source(named, self._path.parent)
            return _Tools(source, {spec.name: spec for spec in source.specs()})
        except InvalidTool as error:
            return error

    def _complaints(self, line: TaskLine) -> Iterator[str]:
        """What is wrong with a line whose form is right."""
        try:
            tools = self._tools(line)
        except InvalidTool as error:
            yield f"toolset: {error}"
            return
        unknown = [name for name in line.tools or () if name not in tools.specs]
        if unknown:
            yield f"tools: {unknown} are not in the toolset, which has {', '.join(tools.specs)}"
        for position, call in enumerate(line.calls or ()):
            complaint = _call_complaint(call.name, call.arguments, line.tools or tuple(tools.specs), tools.specs)
            if complaint is not None:
                yield f"calls.{position}: {complaint}"
        yield from _raised("initial_state", lambda: tools.source.check_state(line.initial_state))
        if line.state is not None:
            yield from _raised("state", lambda: _ground_truth(line, tools.source))
        if line.checker is not None:
            yield from _raised("checker", lambda: _callable(line.checker, self._path.parent))

    def _clashes(self, lines: Mapping[int, TaskLine]) -> Iterator[tuple[int, str]]:
        """Lines whose tools share a name with different tools of another source: specs go by name alone."""
        first: dict[str, ToolSpec] = {}
        for number, line in lines.items():
            try:
                specs = self._tools(line).specs
            except InvalidTool:
                continue
            for name, spec in specs.items():
                if first.setdefault(name, spec) != spec:
                    yield number, f"toolset: its tool {name!r} differs from that of an earlier line; rename one"


def split_of(task_id: str) -> Split:
    """The split of a task by a hash of its id: the same in every process, whatever else the file holds."""
    bucket = int.from_bytes(hashlib.blake2b(task_id.encode(), digest_size=8).digest(), "big") % BUCKETS
    return Split.TRAIN if bucket < TRAIN_BUCKETS else Split.VAL if bucket < VAL_BUCKETS else Split.TEST_IID


def _gold(line: TaskLine, tools: _Tools) -> tuple[str, ...]:
    return tuple(call_key(tools.specs[call.name], call.arguments) for call in line.calls or ())


def _ground_truth(line: TaskLine, source: ToolSource) -> GroundTruth:
    state = None if line.state is None else source.state_hash({**(line.initial_state or {}), **line.state})
    return GroundTruth(line.answer, state, len(line.calls) if line.calls else None)


def _call_complaint(
    name: str, arguments: Mapping[str, object], offered: tuple[str, ...], specs: Mapping[str, ToolSpec]
) -> str | None:
    if name not in offered or name not in specs:
        return f"{name!r} is not offered; the task offers {', '.join(offered)}"
    return check_arguments(specs[name], ToolCall("gold", name, arguments))


def _callable(reference: str | None, folder: Path) -> None:
    found = resolve(reference or "", folder)
    if not callable(found):
        raise InvalidTool(f"{reference!r} is a {type(found).__name__}; expected a function of state and answer")


def _raised(field: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except InvalidTool as error:
        yield f"{field}: {error}"
