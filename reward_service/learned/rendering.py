"""What a step model reads of a step: the task, and the trajectory up to and including the step. Pure.

Owns the form of that text. Whoever trains a model for this service trains it on these texts. All text of others stands
as JSON, so that no tool can write a line that looks like ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from reward_service.judge.record import cut
from reward_service.learned.config import StepModelConfig
from reward_service.wire import StepItem, TrajectoryItem

RENDERING_VERSION = 1
"""Part of every fingerprint. Raise it with any change of this file that changes a text."""


def step_text(item: TrajectoryItem, position: int, config: StepModelConfig) -> str:
    """The text for the step at `position`.

    Each part has at most `part_characters`. Where all is longer than `text_characters`, the oldest steps are left out;
    the task and the step itself always stay.
    """
    most = config.part_characters
    task = f"Task: {_quoted(item.task.prompt or '', most)}"
    return _within(config.text_characters, task, [_told(step, most) for step in item.steps[: position + 1]])


def _within(characters: int, task: str, steps: Sequence[str]) -> str:
    first = len(steps) - 1
    room = characters - len(task) - len(steps[first])
    while first > 0 and len(steps[first - 1]) + 1 <= room:
        first -= 1
        room -= len(steps[first]) + 1
    note = [f"[{first} earlier steps left out]"] if first else []
    return "\n".join([task, *note, *steps[first:]])


def _told(step: StepItem, most: int) -> str:
    if step.answer is not None:
        return f"Answer {step.index}: {_quoted(step.answer, most)}"
    if step.call is None:
        return f"Unreadable {step.index}: {_quoted(step.parse_error or '', most)}"
    arguments = cut(json.dumps(step.call.arguments, ensure_ascii=False), most)
    ended = "lost" if step.status is None else step.status.value
    called = f"Call {step.index}: {_quoted(step.call.name, most)} {arguments}"
    return f"{called}\nResult {step.index}, {ended}: {_quoted(step.observation or '', most)}"


def _quoted(text: str, most: int) -> str:
    return json.dumps(cut(text, most), ensure_ascii=False)
