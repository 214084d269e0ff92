"""The prompt of one request, from the packaged template: the rubric, the record, and what is asked.

Consumes a `Record` and a `Question`; produces chat messages and the `Marks` that the answer must bear. Pure but for
chance. The first message is the same for every request, so that a server may keep its beginning in a cache; all that
is drawn by chance stands in the second.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from reward_service.judge.canaries import Marks, Shown, laid_out
from reward_service.judge.config import Defence
from reward_service.judge.isolation import neutral, quoted, rows
from reward_service.judge.questions import Question
from reward_service.judge.record import Exhibit, Record
from reward_service.judge.template import sections

_STEP_FORM = {"id": "id of the step", "reason": "one short sentence", "success": "0 or 1", "contribution": "0 to 5"}
_FINAL_FORM = {"id": "id of the verdict", "reason": "one short sentence", "outcome": "Solved, Unsure or Unsolved"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request."""

    messages: tuple[dict[str, str], ...]
    marks: Marks


def prompt(record: Record, question: Question, defences: frozenset[Defence], chance: random.Random) -> Prompt:
    """The messages for `question`, with marks of their own."""
    steps, marks = laid_out(record.steps, question, defences, chance)
    isolated = Defence.ISOLATION in defences
    text = sections()
    system = text["system"] + (text["safety"] if isolated else "")
    body = _quoted_record(record, steps) if isolated else _plain_record(record, steps)
    user = Template(text["quoted" if isolated else "plain"]).substitute(nonce=marks.nonce, record=body)
    messages = (
        {"role": "system", "content": system},
        {"role": "user", "content": user + _request(question, marks)},
    )
    return Prompt(messages, marks)


def _request(question: Question, marks: Marks) -> str:
    text = sections()
    asked = Template(text["request"]).substitute(steps=", ".join(marks.ids)) if marks.ids else ""
    if question.final:
        asked += Template(text["final_request"]).substitute(final=marks.final)
    form: dict[str, object] = {"steps": [_STEP_FORM] if marks.ids else []}
    if question.final:
        form["final"] = _FINAL_FORM
    return asked + Template(text["form"]).substitute(form=json.dumps(form))


def _quoted_record(record: Record, steps: Sequence[Shown]) -> str:
    def told(exhibit: Exhibit) -> dict[str, str]:
        return {**exhibit.facts, **exhibit.changed(neutral).texts}

    lines = [{"id": step.id, **told(step.exhibit)} if step.id else told(step.exhibit) for step in steps]
    task = quoted(record.task.changed(neutral).texts["task"])
    return f'{{"task": {task},\n"tools": {rows([told(tool) for tool in record.tools])},\n"steps": {rows(lines)}}}'


def _plain_record(record: Record, steps: Sequence[Shown]) -> str:
    """The record without any isolation: what one would write who trusts every text."""
    parts = [f"Task: {record.task.texts['task']}", "Tools:", *(_lines(tool) for tool in record.tools), "Steps:"]
    for step in steps:
        parts.append(f"{step.id or 'not asked about'}\n{_lines(step.exhibit)}")
    return "\n\n".join(parts)


def _lines(exhibit: Exhibit) -> str:
    return "\n".join(f"{name}: {text}" for name, text in {**exhibit.facts, **exhibit.texts}.items())
