"""A trajectory as texts for a judge: bounded, with suspicious ones withheld.

Owns `Record`: the task, the tools and the steps, each an `Exhibit` whose `texts` nobody vouches for, and whose `facts`
we do. The prompt of the task is not scanned: who asks for a score wrote it, and it is full of instructions by nature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from reward_service.judge.config import Defence, JudgeConfig
from reward_service.judge.judgement import Flag, Place
from reward_service.judge.scanner import scan
from reward_service.tool_items import FunctionItem
from reward_service.wire import StepItem, TrajectoryItem

_LEAST_CHARACTERS = 64
"""Of one text, however many there are."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One step, tool or task."""

    texts: Mapping[str, str]
    """By field; written by models, tools and callers."""
    screened: Mapping[Place, tuple[str, ...]] = field(default_factory=dict)
    """Fields that are scanned, and withheld, as one."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """By field; ours."""

    def changed(self, change: Callable[[str], str]) -> Exhibit:
        """The same with other texts."""
        return replace(self, texts={name: change(text) for name, text in self.texts.items()})


@dataclass(frozen=True, slots=True)
class Record:
    """What a judge may know of one trajectory."""

    task: Exhibit
    tools: tuple[Exhibit, ...]
    steps: tuple[Exhibit, ...]
    """One for each step of the trajectory, in order."""

    def exhibits(self) -> Iterator[Exhibit]:
        """All of them."""
        yield from (self.task, *self.tools, *self.steps)


def record_of(item: TrajectoryItem, config: JudgeConfig) -> tuple[Record, tuple[Flag, ...]]:
    """The record of `item` as a judge may read it, and what was withheld from it."""
    whole = Record(
        _task(item), tuple(_tool(tool.function) for tool in item.tools if tool.function), tuple(map(_step, item.steps))
    )
    record = _bounded(whole, config)
    return _withheld(whole, record) if Defence.RULES in config.defences else (record, ())


def cut(text: str, characters: int) -> str:
    """`text`, or its beginning and its end with a note of what was left out between them."""
    if len(text) <= characters:
        return text
    head = characters * 3 // 4
    tail = characters - head
    return f"{text[:head]} [{len(text) - characters} characters left out] {text[-tail:]}"


def _task(item: TrajectoryItem) -> Exhibit:
    return Exhibit({"task": item.task.prompt or "(not told)"})


def _tool(function: FunctionItem) -> Exhibit:
    parameters = _json(function.parameters or {})
    texts = {"name": function.name, "description": function.description or "", "parameters": parameters}
    return Exhibit(texts, {Place.TOOL: tuple(texts)})


def _step(item: StepItem) -> Exhibit:
    if item.answer is not None:
        return Exhibit({"answer": item.answer}, {Place.ANSWER: ("answer",)})
    if item.call is None:
        return Exhibit(
            {"unreadable": item.parse_error or ""}, {Place.UNREADABLE: ("unreadable",)}, {"status": "not a call"}
        )
    texts = {"call": item.call.name, "arguments": _json(item.call.arguments), "observation": item.observation or ""}
    screened = {Place.CALL: ("call", "arguments"), Place.OBSERVATION: ("observation",)}
    return Exhibit(texts, screened, {"status": "lost" if item.status is None else item.status.value})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bounded(record: Record, config: JudgeConfig) -> Record:
    texts = sum(len(exhibit.texts) for exhibit in record.exhibits())
    most = max(_LEAST_CHARACTERS, min(config.text_characters, config.record_characters // texts))

    def short(exhibit: Exhibit) -> Exhibit:
        return exhibit.changed(lambda text: cut(text, most))

    return Record(short(record.task), tuple(map(short, record.tools)), tuple(map(short, record.steps)))


def _withheld(whole: Record, record: Record) -> tuple[Record, tuple[Flag, ...]]:
    flags: list[Flag] = []
    tools = tuple(_screened(i, *pair, flags) for i, pair in enumerate(zip(whole.tools, record.tools, strict=True)))
    steps = tuple(_screened(i, *pair, flags) for i, pair in enumerate(zip(whole.steps, record.steps, strict=True)))
    return Record(record.task, tools, steps), tuple(flags)


def _screened(index: int, whole: Exhibit, shown: Exhibit, flags: list[Flag]) -> Exhibit:
    """What is shown is what is scanned: the judge never reads the rest, and the work stays bounded."""
    texts = dict(shown.texts)
    for place, names in shown.screened.items():
        rules = scan("\n".join(shown.texts[name] for name in names))
        if rules:
            flags.append(Flag(index, place, rules))
            texts |= {name: f"[withheld: {len(whole.texts[name])} characters]" for name in names}
    return replace(shown, texts=texts)
