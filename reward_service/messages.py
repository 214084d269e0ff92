"""Chat messages in OpenAI's format, as they come from an API, a log or a data set, read as the steps of an episode.

Owns `ChatMessage`, which takes the messages as they are and reads of them what says something about steps, and
`read_conversation`. Every tool call is one step, also of several in one message; text without a call is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_service.heuristics import inferred_status
from reward_service.statuses import named_status
from reward_service.texts import cut
from tool_sandbox.http import strict_json
from tool_sandbox.tasks import StopReason
from tool_sandbox.tools import CallStatus

_FUNCTION = "function"
_ONLY_CALL = "function_call"
"""Stands for the id that a `function_call`, as OpenAI had it before `tool_calls`, does not have."""

Kind = Annotated[str, Field(max_length=64)]


class Part(BaseModel):
    """A part of a message's content. Fields that say nothing about steps are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Kind
    text: str | None = None
    refusal: str | None = None

    def told(self) -> str:
        """Its text; a picture or a file leaves its kind."""
        return self.text or self.refusal or f"[{self.type}]"


class FunctionCall(BaseModel):
    """Name and arguments of a call, the latter as the model wrote them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    arguments: str | dict[str, Any] | None = None
    """JSON text, as OpenAI has it; some logs hold it parsed. Null: none."""


class CallOfMessage(BaseModel):
    """One entry of `tool_calls`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Kind | None = _FUNCTION
    """Calls of another type, as `custom`, run nothing that a service for functions could read: an unread turn."""
    function: FunctionCall | None = None

    @model_validator(mode="after")
    def _calls_a_function(self) -> Self:
        if self.is_of_function and self.function is None:
            raise ValueError(f"call {self.id!r}: found no `function`; a call of the type 'function' has one")
        return self

    @property
    def is_of_function(self) -> bool:
        return self.type in (_FUNCTION, None)


class ChatMessage(BaseModel):
    """One message. Fields that say nothing about steps (`name`, `audio`, `annotations`, …) are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[tuple[Part, ...], Field(max_length=256)] | None = None
    refusal: str | None = None
    tool_calls: Annotated[tuple[CallOfMessage, ...], Field(max_length=256)] | None = None
    function_call: FunctionCall | None = None
    """The only call of a message, as OpenAI had it before `tool_calls`; a message of the role `function` answers it."""
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    status: Kind | None = None
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
        if message.role in ("tool", _FUNCTION):
            _take_result(waiting, message, position)
        elif waiting:
            raise ValueError(f"message {position}: no result yet for the calls {sorted(waiting)}; put it before")
        elif message.role == "assistant":
            turns = _turns(message, position)
            waiting = {turn.get("tool_call_id") or _ONLY_CALL: turn for turn in turns if "answer" not in turn}
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
    if calls:
        return [{**_call(call), "tool_call_id": call.id} for call in calls]
    if message.function_call is not None:
        return [_read(message.function_call)]
    return [{"answer": cut(message.text)}]


def _call(call: CallOfMessage) -> dict[str, Any]:
    if call.function is None or not call.is_of_function:
        return {"parse_error": f"a call of the type {call.type!r}, not of a function"}
    return _read(call.function)


def _read(call: FunctionCall) -> dict[str, Any]:
    arguments = _parsed(call.arguments)
    if arguments is None:
        return {"parse_error": "its arguments are no JSON object"}
    return {"call": {"name": cut(call.name), "arguments": arguments}}


def _parsed(arguments: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(arguments, dict):
        return arguments
    try:
        # Whatever passes can be written as JSON again: no NaN, no half characters, no depth without end.
        value = strict_json.loads((arguments or "{}").encode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _take_result(waiting: dict[str, dict[str, Any]], message: ChatMessage, position: int) -> None:
    turn = waiting.pop(message.tool_call_id or (_ONLY_CALL if message.role == _FUNCTION else ""), None)
    if turn is None:
        raise ValueError(
            f"message {position}: a tool result for {message.tool_call_id!r}, "
            f"but the calls without a result are {sorted(waiting)}"
        )
    turn["observation"] = cut(message.text)
    if "call" in turn:
        turn["status"] = _ended(message, position)


def _ended(message: ChatMessage, position: int) -> CallStatus:
    try:
        return message.call_status()
    except ValueError as error:
        raise ValueError(f"message {position}: {error}") from error


def _prompt(messages: Sequence[ChatMessage]) -> str:
    first = next(i for i, message in enumerate(messages) if message.role == "assistant")
    return cut("\n\n".join(message.text for message in messages[:first] if message.role == "user"))
