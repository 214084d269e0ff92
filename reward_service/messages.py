"""Chat messages in OpenAI's format, as they come from an API, a log or a data set, read as the steps of an episode.

Owns `ChatMessage`, which takes the messages as they are and reads of them what says something about steps, and
`read_conversation`. Every tool call is one step, also of several in one message; text without a call is an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reward_service.heuristics import inferred_status
from reward_service.statuses import named_status
from tool_sandbox.tasks import StopReason
from tool_sandbox.tools import CallStatus

MAX_PART_CHARACTERS = 65_536

Text = Annotated[str, Field(max_length=MAX_PART_CHARACTERS)]


class Part(BaseModel):
    """A part of a message's content. Fields that say nothing about steps are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Annotated[str, Field(max_length=64)]
    text: Text | None = None
    refusal: Text | None = None

    def told(self) -> str:
        """Its text; a picture or a file leaves its kind."""
        return self.text or self.refusal or f"[{self.type}]"


class FunctionCall(BaseModel):
    """Name and arguments of a call, the latter as the model wrote them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Text
    arguments: Text | dict[str, Any]
    """JSON text, as OpenAI has it; some logs hold it parsed."""


class CallOfMessage(BaseModel):
    """One entry of `tool_calls`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One message. Fields that say nothing about steps (`name`, `audio`, `annotations`, …) are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[tuple[Part, ...], Field(max_length=256)] | None = None
    refusal: Text | None = None
    tool_calls: Annotated[tuple[CallOfMessage, ...], Field(max_length=256)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    status: Annotated[str, Field(max_length=64)] | None = None
    """Of a tool message, where its framework types it: one of our statuses, or a word such as `success` or `failed`."""
    is_error: bool | None = None
    """The same, as MCP has it."""

    @property
    def text(self) -> str:
        """All text of the message."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.told() for part in self.content or ()) or (self.refusal or "")

    def call_status(self) -> CallStatus:
        """How the call of a tool message ended: as it says, else as its text reads.

        Raises:
            ValueError: it says so by a word that nobody knows.
        """
        said = named_status(self.status) if self.status and self.status.strip() else None
        if self.is_error is not None:
            return CallStatus.TOOL_ERROR if self.is_error else CallStatus.OK
        return said or inferred_status(self.text)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the messages say."""

    prompt: str
    """All that the user said before the model's first turn."""
    steps: tuple[Mapping[str, Any], ...]
    """As the contract spells them."""
    stop: StopReason


def read_conversation(messages: Sequence[ChatMessage]) -> Conversation:
    """The steps of a conversation, in order.

    A call of the last turn that has no result is lost: it abstains. An earlier one without a result is a mistake.

    Raises:
        ValueError: a result without its call, a call without its result, a result with a status that nobody knows, or a
            model that says nothing at all.
    """
    steps: list[dict[str, Any]] = []
    waiting: dict[str, dict[str, Any]] = {}
    for position, message in enumerate(messages):
        if message.role == "tool":
            _take_result(waiting, message, position)
        elif waiting:
            raise ValueError(f"message {position}: no result yet for the calls {sorted(waiting)}; put it before")
        elif message.role == "assistant":
            turns = _turns(message, position)
            waiting = {turn["tool_call_id"]: turn for turn in turns if "tool_call_id" in turn}
            steps += turns
    for lost in waiting.values():
        if "call" in lost:
            lost["status"] = CallStatus.INFRA_ERROR
    if not steps:
        raise ValueError("messages: found no turn of the assistant; there is nothing to score")
    numbered = tuple({"index": index, **step} for index, step in enumerate(steps))
    answered = messages[-1].role == "assistant" and "answer" in steps[-1]
    return Conversation(_prompt(messages), numbered, StopReason.ANSWERED if answered else StopReason.STEP_BUDGET)


def _turns(message: ChatMessage, position: int) -> list[dict[str, Any]]:
    calls = message.tool_calls or ()
    ids = [call.id for call in calls]
    if len(set(ids)) < len(ids):
        raise ValueError(f"message {position}: the calls {ids} share an id; give each its own")
    return [_call(call) for call in calls] or [{"answer": message.text}]


def _call(call: CallOfMessage) -> dict[str, Any]:
    arguments = _parsed(call.function.arguments)
    if arguments is None:
        return {"parse_error": "its arguments are no JSON object", "tool_call_id": call.id}
    return {"call": {"name": call.function.name, "arguments": arguments}, "tool_call_id": call.id}


def _parsed(arguments: str | dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(arguments, dict):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _take_result(waiting: dict[str, dict[str, Any]], message: ChatMessage, position: int) -> None:
    turn = waiting.pop(message.tool_call_id or "", None)
    if turn is None:
        raise ValueError(
            f"message {position}: a tool result for {message.tool_call_id!r}, "
            f"but the calls without a result are {sorted(waiting)}"
        )
    turn["observation"] = message.text[:MAX_PART_CHARACTERS]
    if "call" in turn:
        turn["status"] = _ended(message, position)


def _ended(message: ChatMessage, position: int) -> CallStatus:
    try:
        return message.call_status()
    except ValueError as error:
        raise ValueError(f"message {position}: {error}") from error


def _prompt(messages: Sequence[ChatMessage]) -> str:
    first = next(i for i, message in enumerate(messages) if message.role == "assistant")
    return "\n\n".join(message.text for message in messages[:first] if message.role == "user")[:MAX_PART_CHARACTERS]
