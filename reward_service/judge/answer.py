"""The answer of a judge: the JSON schema that servers are asked to keep to, and the check that every answer passes.

Owns `answer_schema` and `read_answer`. The schema never holds the ids of a request: a server that enforces it would
write them itself, and the echo would prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from reward_service.judge.canaries import Marks, believes_control
from reward_service.judge.config import Defence
from reward_service.judge.isolation import neutral
from reward_service.judge.judgement import HIGHEST_CONTRIBUTION, FinalVerdict, Outcome, StepVerdict

REASON_CHARACTERS = 300
"""Of one reason that is kept; the rest is cut."""
_WRITTEN_REASON = r"^[A-Za-z0-9 ,.;:'()/%=+_-]{1,100}$"
"""Bounds what a server that enforces the schema may write; xgrammar, vLLM's own way to do so, does not compile a
repetition of more than 128. Longer or other reasons are no misfit."""
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
_ID = {"type": "string", "pattern": r"^[a-z0-9-]{1,16}$"}
_REASON = {"type": "string", "pattern": _WRITTEN_REASON}


class Misfit(ValueError):
    """An answer that cannot count."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that counts."""

    steps: tuple[StepVerdict, ...]
    """Of the steps that were asked about, in order; the control step is gone."""
    final: FinalVerdict | None


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: StrictStr
    reason: StrictStr


class _StepWritten(_Written):
    success: Annotated[StrictInt, Field(ge=0, le=1)]
    contribution: Annotated[StrictInt, Field(ge=0, le=HIGHEST_CONTRIBUTION)]


class _FinalWritten(_Written):
    outcome: Outcome


class _AnswerWritten(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[_StepWritten, ...]
    final: _FinalWritten | None = None


def answer_schema(steps: int, final: bool) -> dict[str, Any]:
    """JSON Schema of an answer about so many steps, the control step included."""
    grades = {
        "success": {"type": "integer", "enum": [0, 1]},
        "contribution": {"type": "integer", "enum": [*range(HIGHEST_CONTRIBUTION + 1)]},
    }
    outcome = {"outcome": {"type": "string", "enum": [*Outcome]}}
    listed = {"type": "array", "minItems": steps, "maxItems": steps, "items": _verdict(grades)}
    return _closed({"steps": listed} | ({"final": _verdict(outcome)} if final else {}))


def read_answer(text: str, marks: Marks, final: bool, defences: frozenset[Defence]) -> Answer:
    """The verdicts in `text`.

    Raises:
        Misfit: it is no such JSON object, about other steps, without the right ids, or it believes the control step.
    """
    written = _parsed(text)
    if len(written.steps) != len(marks.ids) or (written.final is not None) != final:
        raise Misfit(
            f"{len(written.steps)} steps and {'a' if written.final else 'no'} final verdict; "
            f"expected {len(marks.ids)} and {'one' if final else 'none'}"
        )
    ordered = _by_echo(written, marks) if Defence.ECHO in defences else list(written.steps)
    verdicts = [StepVerdict(step.success, step.contribution, _reason(step)) for step in ordered]
    if marks.control is not None and believes_control(verdicts.pop(marks.control)):
        raise Misfit("the control step, a failed call, was given credit")
    return Answer(tuple(verdicts), _final(written.final))


def _parsed(text: str) -> _AnswerWritten:
    plain = _THOUGHTS.sub("", text).strip()
    fenced = _FENCE.fullmatch(plain)
    try:
        return _AnswerWritten.model_validate_json(fenced[1] if fenced else plain)
    except ValidationError as error:
        # What the judge wrote may quote the record, even as a key: the message tells the kind of misfit only.
        kind = error.errors(include_url=False, include_input=False, include_context=False)[0]["type"]
        raise Misfit(f"the answer does not fit the schema ({kind})") from None


def _by_echo(written: _AnswerWritten, marks: Marks) -> list[_StepWritten]:
    by_id = {step.id: step for step in written.steps}
    if set(by_id) != set(marks.ids) or (written.final is not None and written.final.id != marks.final):
        raise Misfit("the ids are not those of this request")
    return [by_id[each] for each in marks.ids]


def _final(written: _FinalWritten | None) -> FinalVerdict | None:
    return None if written is None else FinalVerdict(written.outcome, _reason(written))


def _reason(written: _Written) -> str:
    return neutral(written.reason[:REASON_CHARACTERS])


def _verdict(grades: Mapping[str, Any]) -> dict[str, Any]:
    """The reason stands before the grades: what is written first may inform what follows."""
    return _closed({"id": _ID, "reason": _REASON, **grades})


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": dict(properties), "required": names, "additionalProperties": False}
