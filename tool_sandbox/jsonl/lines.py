"""The file itself: one JSON object a line, checked against `TaskLine`; every error of a file is reported at once.

Owns the line's model and the `Complaints` of a file. Knows nothing of tools: whether a line's tools exist is checked by
`toolset`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from tool_sandbox.errors import InvalidToolset
from tool_sandbox.mcp.config import McpHttp, McpStdio
from tool_sandbox.tasks import Split

SHOWN_COMPLAINTS = 50
_REFERENCE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
Text = Annotated[str, Field(min_length=1)]


def _checked_reference(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        raise ValueError(f"{value!r} names no object; write it as module:object")
    return value


def _kind_of_source(value: Any) -> Any:
    """Which variant a `toolset` is, so that an error speaks of that one alone."""
    if isinstance(value, str):
        return "reference"
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


Reference = Annotated[str, AfterValidator(_checked_reference)]
"""`module:object`, as in an entry point."""
Source = Annotated[
    Annotated[Reference, Tag("reference")] | Annotated[McpStdio, Tag("mcp")] | Annotated[McpHttp, Tag("mcp_http")],
    Discriminator(
        _kind_of_source,
        custom_error_type="toolset",
        custom_error_message="expected module:object, or an MCP server with the kind 'mcp' or 'mcp_http'",
    ),
]


class GoldCall(BaseModel):
    """A call that a right solution makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    arguments: dict[str, JsonValue] = {}


class TaskLine(BaseModel):
    """One task. Its ground truth is one of `answer`, `state` and `checker`, or `calls`, which may stand beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text
    prompt: Text | None = None
    turns: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """What the user says, turn by turn, in place of `prompt`; the next follows when the model ends its turn."""
    toolset: Source
    """Where the tools come from: a list of `@tool` functions or a toolset, as `module:object`, or an MCP server."""
    tools: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """The tools offered, in the order shown; None offers all of the toolset."""
    initial_state: dict[str, JsonValue] | None = None
    """Fields of the tools' state class; None for what the class has by itself. A toolset gets it as task payload."""
    answer: str | None = None
    """The right final answer; a number may be written as one."""
    state: dict[str, JsonValue] | None = None
    """Fields of the right final state; those not named are right as they were at first."""
    calls: Annotated[tuple[GoldCall, ...], Field(min_length=1)] | None = None
    """Gold calls, in any order. Progress counts those still to be made; alone, they decide about the verdict too."""
    checker: Reference | None = None
    """`module:function`, called with the final state (None without one) and the answer; gives whether it is solved."""
    level: Text = "all"
    split: Split | None = None
    """None leaves it to a hash of the id."""

    @field_validator("answer", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.prompt is None) == (self.turns is None):
            raise ValueError("needs either `prompt` or `turns`")
        if not isinstance(self.toolset, str) and (self.initial_state is not None or self.state is not None):
            raise ValueError("has a state, and an MCP server shows none; leave `initial_state` and `state` out")
        decisive = [name for name in ("answer", "state", "checker") if getattr(self, name) is not None]
        if len(decisive) > 1:
            raise ValueError(f"has the ground truths {' and '.join(decisive)}; keep one of them")
        if not decisive and self.calls is None:
            raise ValueError("has no ground truth; give `answer`, `state`, `calls` or `checker`")
        return self

    @property
    def script(self) -> tuple[str, ...]:
        """All that the user says; the first is the task's prompt."""
        return self.turns or (self.prompt or "",)


class Complaints:
    """The errors of one file, collected so that they can be mended together. Mutable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, complaint: str) -> None:
        """Note an error; lines count from 1."""
        self._found.append((line, complaint))

    def finish(self) -> None:
        """Raise `InvalidToolset` with every error, if there are any, in the order of the lines."""
        if not self._found:
            return
        shown = [
            f"{self._path}:{line}: {text}" for line, text in sorted(self._found, key=itemgetter(0))[:SHOWN_COMPLAINTS]
        ]
        hidden = len(self._found) - len(shown)
        more = [f"and {hidden} more"] if hidden else []
        raise InvalidToolset(
            "\n".join([f"tasks {self._path}: {len(self._found)} error{'s' * (len(self._found) > 1)}", *shown, *more])
        )


def read_lines(path: Path, complaints: Complaints) -> dict[int, TaskLine]:
    """The good tasks of a file by line number; empty lines are skipped. What is wrong goes to `complaints`.

    Raises:
        InvalidToolset: the file cannot be read, or has no line.
    """
    try:
        raw = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidToolset(f"tasks {path}: cannot be read ({error.strerror}); name a JSONL file") from error
    if not any(line.strip() for line in raw):
        raise InvalidToolset(f"tasks {path}: has no line; write one task a line")
    lines: dict[int, TaskLine] = {}
    taken: dict[str, int] = {}
    for number, text in enumerate(raw, start=1):
        if text.strip():
            line = _parsed(number, text, complaints)
            if line is not None:
                _keep(number, line, lines, taken, complaints)
    return lines


def _parsed(number: int, text: bytes, complaints: Complaints) -> TaskLine | None:
    try:
        return TaskLine.model_validate(json.loads(text))
    except ValidationError as error:
        for complaint in _complaints_of(error):
            complaints.add(number, complaint)
    except ValueError as error:
        complaints.add(number, f"is not JSON: {error}")
    return None


def _keep(
    number: int, line: TaskLine, lines: dict[int, TaskLine], taken: dict[str, int], complaints: Complaints
) -> None:
    if line.id in taken:
        complaints.add(number, f"id {line.id!r} is taken by line {taken[line.id]}; give each task its own")
        return
    taken[line.id] = number
    lines[number] = line


def _complaints_of(error: ValidationError) -> Iterator[str]:
    for each in error.errors():
        where = ".".join(str(part) for part in each["loc"])
        text = each["msg"].removeprefix("Value error, ")
        yield f"{where}: {text}" if where else f"the task {text}"
