"""Model text to actions, by vLLM's own tool parsers.

Owns `ActionParser`. A malformed call is data, not an exception.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

from actors.errors import UnknownToolParser
from actors.trajectory import Action, Answer, ParseFailure
from tool_sandbox.tools import ToolCall


class ActionParser:
    """Reads one model turn as a tool call, a final answer, or a failed attempt at a call."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        try:
            parser = ToolParserManager.get_tool_parser(name)
        except KeyError as error:
            known = ", ".join(sorted(ToolParserManager.list_registered()))
            raise UnknownToolParser(f"tool parser {name!r}: vLLM has no such parser; choose one of {known}") from error
        try:
            self._parser = parser(tokenizer)
        except (RuntimeError, ValueError) as error:
            raise UnknownToolParser(
                f"tool parser {name!r}: it does not fit the model's tokenizer ({error}); choose the model's own"
            ) from error
        self._request = ChatCompletionRequest.model_validate({"messages": [], "model": ""})
        # A malformed call is an ordinary observation here; vLLM would log a stack trace for each.
        logging.getLogger(parser.__module__).setLevel(logging.CRITICAL)

    def parse(self, text: str, call_id: str) -> Action:
        """One action; calls that the parser cannot read, or several at once, become a `ParseFailure`."""
        extracted = self._parser.extract_tool_calls(text, self._request)
        if extracted.tools_called:
            return _single_call(text, extracted.tool_calls, call_id)
        if self._attempted(text):
            return ParseFailure(text, "malformed tool call")
        return Answer(text.strip())

    def _attempted(self, text: str) -> bool:
        marker = getattr(self._parser, "tool_call_start_token", None)
        return isinstance(marker, str) and bool(marker) and marker in text


def _single_call(text: str, calls: Sequence[Any], call_id: str) -> Action:
    if len(calls) != 1:
        return ParseFailure(text, f"{len(calls)} calls in one turn")
    function = calls[0].function
    arguments = json.loads(function.arguments)
    if not isinstance(arguments, dict):
        return ParseFailure(text, "arguments are not an object")
    return ToolCall(call_id, function.name, arguments)
