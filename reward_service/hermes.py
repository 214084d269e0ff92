"""A trajectory that came as one text, read as steps: calls in `<tool_call>`, results in `<tool_response>` (Hermes).

Owns `read_text` and `continuation`, for trainers that hand a reward function nothing but text. Pure. Two forms are
read: with the turn marks of ChatML (`<|im_start|>role … <|im_end|>`), and without them, as a decoder leaves a text that
skips special tokens: there the bare names of roles stand around a result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from reward_service.heuristics import inferred_status
from reward_service.texts import cut
from reward_service.wire import MAX_STEPS, CallItem, StepItem
from tool_sandbox.tasks import StopReason

_MODEL = "assistant"
_TURN = re.compile(r"<\|im_start\|>(\w*)\n?(.*?)(?:<\|im_end\|>|(?=<\|im_start\|>)|\Z)", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?(?:</tool_response>|\Z)", re.DOTALL)
_END = re.compile(r"(?:\s+|<\|\w{1,32}\|>|</s>|<eos>|<pad>)\Z")
_ROLE = re.compile(rf"\s{{0,4}}{_MODEL}(?:\n|\Z)")
_END_CHARACTERS = 40
_TAIL_CHARACTERS = 64
_TAILS_TRIED = 16


class _Turn(NamedTuple):
    role: str
    text: str


class ReadText(NamedTuple):
    """What the text says."""

    steps: tuple[StepItem, ...]
    stop: StopReason


def read_text(text: str) -> ReadText:
    """The steps of what the model wrote and was answered, in order; `text` begins where the model's first turn does.

    Whatever a model writes can be read. A call that is no JSON object with a name and arguments, one without a result,
    and one whose turn writes a tool's result itself, ran nothing: each is an unread turn. None abstains, since a text
    shows no loss of infrastructure. Reasoning up to `</think>` is left out, and so are steps over the limit.
    """
    reader = _Reader()
    for turn in _turns(_plain(text)):
        if turn.role == _MODEL:
            reader.says(turn.text)
        else:
            reader.is_told([result.group(1) for result in _RESULT.finditer(turn.text)])
    return reader.end()


def continuation(prompt: str, text: str) -> str | None:
    """What follows `prompt`, or an end of it, in `text`; None where `text` begins with neither.

    Trainers cut a long prompt at its beginning, and hand out the whole one beside.
    """
    if text.startswith(prompt):
        return text.removeprefix(prompt)
    tail = prompt[-_TAIL_CHARACTERS:]
    end = 0
    for _ in range(_TAILS_TRIED):
        start = text.find(tail, max(0, end - len(tail) + 1))
        if start < 0:
            return None
        end = start + len(tail)
        if prompt.endswith(text[:end]):
            return text[end:]
    return None


def last_request(prompt: str) -> str:
    """What the user asked last; the whole prompt where it has no turn marks."""
    asked = [turn.text for turn in _marked(prompt) if turn.role == "user"]
    return cut((asked[-1] if asked else prompt).strip())


def from_first_answer(text: str) -> str:
    """`text` from the model's first turn on; all of it where nothing marks turns."""
    return text[found.start() :] if (found := re.search(rf"<\|im_start\|>{_MODEL}\b", text)) else text


class _Reader:
    """The steps so far, and the calls of the last turn that wait for their results."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []

    def says(self, text: str) -> None:
        """One turn of the model; an empty one is none."""
        said = _without_end(text.rpartition("</think>")[2]).strip()
        if not said:
            return
        self._give_up("the model went on before the call had a result")
        calls = [_call(found.group(1)) for found in _CALL.finditer(said)]
        self._steps += calls or [{"answer": cut(said)}]
        self._waiting = [call for call in calls if "call" in call]
        if "<tool_response>" in said:
            self._give_up("the turn writes a tool's result itself")

    def is_told(self, results: list[str]) -> None:
        """The results of the calls that wait, in their order."""
        for call, result in zip(self._waiting, results, strict=False):
            call |= {"observation": cut(result), "status": inferred_status(result)}
        del self._waiting[: len(results)]

    def end(self) -> ReadText:
        """All steps. Who says nothing at all answers with nothing."""
        self._give_up("the text ends before the call had a result")
        if not self._steps:
            self._steps.append({"answer": ""})
        kept = self._steps[:MAX_STEPS]
        steps = tuple(StepItem.model_validate({"index": index, **step}) for index, step in enumerate(kept))
        return ReadText(steps, StopReason.STEP_BUDGET if steps[-1].answer is None else StopReason.ANSWERED)

    def _give_up(self, reason: str) -> None:
        for call in self._waiting:
            call.clear()
            call["parse_error"] = reason
        self._waiting = []


def _turns(text: str) -> Iterator[_Turn]:
    """The turns of the model and those between them. What stands before the first mark is the model's."""
    if "<|im_start|>" not in text:
        yield from _unmarked(text)
        return
    begun = text.partition("<|im_start|>")[0].partition("<|im_end|>")[0]
    if begun.strip():
        yield _Turn(_MODEL, begun)
    yield from _marked(text)


def _marked(text: str) -> Iterator[_Turn]:
    return (_Turn(found.group(1), found.group(2)) for found in _TURN.finditer(text))


def _unmarked(text: str) -> Iterator[_Turn]:
    """Turns between results. The names of roles stay behind where a decoder leaves the marks of turns out."""
    place = 0
    for found in _RESULT.finditer(text):
        said = _without_last_line(text[place : found.start()], ("user", "tool"))
        if said.strip():
            yield _Turn(_MODEL, said)
        yield _Turn("tool", found.group())
        role = _ROLE.match(text, found.end())
        place = found.end() if role is None else role.end()
    yield _Turn(_MODEL, text[place:])


def _without_last_line(text: str, lines: tuple[str, ...]) -> str:
    before, _, last = text.rstrip().rpartition("\n")
    return before if last in lines else text


def _without_end(text: str) -> str:
    """Without the tokens that end a turn or fill up a batch, where the decoder left them."""
    end = len(text)
    while found := _END.search(text, max(0, end - _END_CHARACTERS), end):
        end = found.start()
    return text[:end]


def _call(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_refuse)
        call = CallItem.model_validate({"name": value["name"], "arguments": _object(value.get("arguments", {}))})
        # Half a character, escaped, is a string to JSON and none to whoever must encode it.
        call.model_dump_json()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {"parse_error": "no JSON object with a name and an object of arguments"}
    return {"call": call.model_dump()}


def _object(arguments: Any) -> Any:
    """Arguments as models write them: an object, or the JSON text of one."""
    return json.loads(arguments, parse_constant=_refuse) if isinstance(arguments, str) else arguments


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _plain(text: str) -> str:
    """Without half characters, which no encoding takes."""
    return text.encode(errors="replace").decode()
