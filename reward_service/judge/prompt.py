"""The prompt of one request, from the packaged template: the rubric, the record, and what is asked.

Consumes a `Record` and a `Question`; produces chat messages and the `Marks` that the answer must bear. Pure but for
chance. The first message is the same for every request, so that a server may keep its beginning in a cache; all that
is drawn by chance stands in the second.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request."""

    messages: tuple[dict[str, str], ...]
    marks: Marks


def prompt(record: Record, question: Question, defences: frozenset[Defence], chance: random.Random) -> Prompt:
    """The messages for `question`, with marks of their own."""
    isolated = Defence.ISOLATION in defences
    steps, marks = laid_out(record.steps, question, defences, chance)
    text = sections()
    system = [text["system"], text["safety"]] if isolated else [text["system"]]
    body = _quoted_record(record, steps) if isolated else _plain_record(record, steps)
    shown = Template(text["quoted" if isolated else "plain"]).substitute(nonce=marks.nonce, record=body)
    messages = (
        {"role": "system", "content": "\n\n".join(system)},
        {"role": "user", "content": f"{shown}\n\n{_request(question, marks)}"},
    )
    return Prompt(messages, marks)


def _request(question: Question, marks: Marks) -> str:
    text = sections()
    asked, form = [], [f'"steps": [{text["step_form"]}]' if marks.ids else '"steps": []']
    if marks.ids:
        asked.append(Template(text["steps_request"]).substitute(steps=", ".join(marks.ids)))
    if question.final:
        asked.append(Template(text["final_request"]).substitute(final=marks.final))
        form.append(f'"final": {text["final_form"]}')
    asked.append(Template(text["form"]).substitute(form="{" + ", ".join(form) + "}"))
    return "\n".join(asked)


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
