"""NeMo-Gym's verification of one rollout: a response in OpenAI's Responses form in, the same with a reward out.

Owns what is read of its bodies and how they become chat messages. An abstention is answered as Gym's own servers
answer for a judge that failed: the row is marked, so that Gym keeps it from its metrics and may try it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from reward_service.adapters.terms import ground_truth, total
from reward_service.errors import UnscorableTrajectory
from reward_service.wire import ConversationItem, FailedItem, ItemResult, ScoredItem, ScoreRequest, TaskItem
from tool_sandbox.tools import CallStatus

_ITEM = "rollout"
_COMPONENTS: tuple[str, ...] = ("success", "contribution", "solved", "step_cost")
"""Always there, also where nothing of them is in the reward: Gym wants the same keys for every task."""

_FAILURE = ("_ng_failure_class", "_ng_failure_judge_error")


class _Read(BaseModel):
    """Reads what says something about steps, and keeps the rest to give it back."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Part(_Read):
    """A part of a message, or of a result."""

    type: str
    text: str | None = None
    refusal: str | None = None


class OutputMessage(_Read):
    """What the model said, or somebody to it."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class FunctionCall(_Read):
    """A call."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(_Read):
    """Its result."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]


class Reasoning(_Read):
    """Is not scored."""

    type: Literal["reasoning"]


OutputItem = Annotated[OutputMessage | FunctionCall | FunctionCallOutput | Reasoning, Field(discriminator="type")]


class Asked(_Read):
    """What the model was asked."""

    input: str | list[dict[str, JsonValue]]
    tools: list[dict[str, JsonValue]] | None = None


class Answered(_Read):
    """What came of it."""

    output: list[OutputItem]


class VerifyRequest(_Read):
    """One rollout. Fields of the task's own row come along and go back."""

    responses_create_params: Asked
    response: Answered
    expected_answer: JsonValue = None
    """The right answer, as many of Gym's data sets name it."""
    steptool_ground_truth: dict[str, JsonValue] | None = None
    """As the contract has it; it goes before `expected_answer`. Rows have a `ground_truth` of their own."""


def as_request(body: VerifyRequest) -> ScoreRequest:
    """The one trajectory.

    Raises:
        UnscorableTrajectory: the output is no conversation with tools, or the ground truth is none.
    """
    try:
        truth = ground_truth(body.steptool_ground_truth or body.expected_answer)
        tools = [tool for tool in body.responses_create_params.tools or () if tool.get("type") == "function"]
        item = {
            "id": _ITEM,
            "messages": [*_asked(body.responses_create_params.input), *_messages(body.response.output)],
            "tools": [_tool(tool) for tool in tools],
            "task": TaskItem(id=_ITEM, ground_truth=truth),
        }
        return ScoreRequest(trajectories=(ConversationItem.model_validate(item),))
    except ValueError as error:
        raise UnscorableTrajectory(_ITEM, str(error)) from error


def as_reply(result: ItemResult, body: VerifyRequest) -> dict[str, Any]:
    """What was sent, with `reward`, `reward_components` and the rewards of the steps.

    Raises:
        UnscorableTrajectory: the rollout lacks what the signals need.
    """
    reward = total(result)
    # A row that is verified again comes with the mark of its failure.
    sent = {name: value for name, value in body.model_dump(exclude_unset=True).items() if name not in _FAILURE}
    if reward is None:
        return {**sent, "reward": 0.0, "reward_components": _components([]), **_failure(result)}
    steps = [step.reward for step in result.steps]
    return {**sent, "reward": reward, "reward_components": _components([result]), "step_rewards": steps}


def _failure(result: ItemResult) -> dict[str, str]:
    reason = result.error.message if isinstance(result, FailedItem) else "no step has a reward, all abstain"
    return dict(zip(_FAILURE, ("judge_failed", reason), strict=True))


def _components(results: Sequence[ItemResult]) -> dict[str, float]:
    """Each component summed over the steps; together they are the reward."""
    sums = dict.fromkeys(_COMPONENTS, 0.0)
    scored = [result for result in results if isinstance(result, ScoredItem)]
    for part in (part for result in scored for step in result.steps for part in step.components):
        sums[part.name] = sums.get(part.name, 0.0) + part.value
    return sums


def _asked(given: str | Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The user's part of the input; examples of calls in it are not the model's steps."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    for message in given:
        if message.get("type", "message") == "message" and message.get("role") in ("system", "developer", "user"):
            read = OutputMessage.model_validate({**message, "type": "message"})
            yield {"role": read.role, "content": _text(read.content)}


def _messages(output: Sequence[OutputMessage | FunctionCall | FunctionCallOutput | Reasoning]) -> list[dict[str, Any]]:
    """Chat messages: what a model says and calls before the next result is one turn of it.

    A call of which the row has no result abstains: many agents run one call of several, or keep no results. Who says
    nothing at all answers with nothing.
    """
    conversation = _Conversation({item.call_id for item in output if isinstance(item, FunctionCallOutput)})
    for item in output:
        match item:
            case OutputMessage(role="assistant"):
                conversation.said(_text(item.content))
            case OutputMessage():
                conversation.told(item.role, _text(item.content))
            case FunctionCall():
                conversation.called(item)
            case FunctionCallOutput():
                conversation.answered(item.call_id, _text(item.output))
            case Reasoning():
                pass
    if not conversation.has_turns:
        conversation.said("")
    return conversation.messages


class _Conversation:
    """The messages so far, and the calls of the last turn that wait for their results."""

    def __init__(self, with_results: set[str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self._with_results = with_results
        self._waiting: list[str] = []

    @property
    def has_turns(self) -> bool:
        """Whether the model said or called anything."""
        return any(message["role"] == "assistant" for message in self.messages)

    def said(self, text: str) -> None:
        """The model's words: beside calls whose results are still to come, or a turn of their own."""
        if not self._with_results.intersection(self._waiting):
            self.told("assistant", text)

    def told(self, role: str, text: str) -> None:
        """A message that begins a turn."""
        self._lose_waiting()
        self.messages.append({"role": role, "content": text})

    def called(self, item: FunctionCall) -> None:
        """A call, in the turn that the model is in."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._lose_waiting()
            self.messages.append({"role": "assistant", "content": None})
        self.messages[-1].setdefault("tool_calls", []).append(_call(item))
        self._waiting.append(item.call_id)

    def answered(self, call_id: str, result: str) -> None:
        """A result."""
        if call_id in self._waiting:
            self._waiting.remove(call_id)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})

    def _lose_waiting(self) -> None:
        lost = {"role": "tool", "content": "", "status": CallStatus.INFRA_ERROR.value}
        self.messages += [lost | {"tool_call_id": call_id} for call_id in self._waiting]
        self._waiting = []


def _call(item: FunctionCall) -> dict[str, Any]:
    return {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}


def _text(content: str | Sequence[Part]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text or part.refusal or f"[{part.type}]" for part in content)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
    return {"type": "function", "function": known}
