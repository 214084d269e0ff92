"""Model text to actions, by vLLM's own parsers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.demonstrations import render_call
from actors.errors import BadInput, UnknownToolParser
from actors.parsing import ActionParser
from actors.trajectory import Answer, ParseFailure
from tests.actors.fakes import parser, tokenizer
from tool_sandbox.tools import ToolCall

CALL = '<tool_call>{"name": "price", "arguments": {"item": "lamp"}}</tool_call>'
LAMP = ToolCall("c-1", "price", {"item": "lamp"})


@pytest.mark.parametrize("text", [CALL, f"Let me look.\n{CALL}", CALL.replace("</tool_call>", "")])
def test_a_hermes_call_is_a_tool_call(text: str) -> None:
    assert parser().parse(text, "c-1") == LAMP


def test_a_turn_without_a_call_is_the_final_answer() -> None:
    assert parser().parse(" 42\n", "c-1") == Answer("42")
    assert parser().parse("", "c-1") == Answer("")


@pytest.mark.parametrize(
    "body",
    [
        "price(lamp)",
        "",
        '{"name": "price", "arguments": {"item": "lamp"',
        '{"name": "price"}',
        '{"name": 5, "arguments": {}}',
        "[" * 5000,
    ],
)
def test_an_unreadable_call_is_a_failure_that_keeps_the_text(body: str) -> None:
    text = f"<tool_call>{body}</tool_call>"
    assert parser().parse(text, "c-1") == ParseFailure(text, "malformed tool call")


def test_two_calls_in_one_turn_are_a_failure() -> None:
    assert parser().parse(CALL + CALL, "c-1") == ParseFailure(CALL + CALL, "2 calls in one turn")


def test_arguments_that_are_no_object_are_a_failure() -> None:
    text = CALL.replace('{"item": "lamp"}', '["lamp"]')
    assert parser().parse(text, "c-1") == ParseFailure(text, "arguments are not an object")


def test_a_malformed_call_leaves_no_stack_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    parser().parse("<tool_call>price(lamp)</tool_call>", "c-1")
    assert caplog.records == []


def test_the_parser_is_the_one_that_was_named() -> None:
    pythonic = '[price(item="lamp")]'
    assert ActionParser("pythonic", tokenizer()).parse(pythonic, "c-1") == LAMP
    assert parser().parse(pythonic, "c-1") == Answer(pythonic)


def test_an_unknown_parser_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(UnknownToolParser, match=r"'hermess'.*choose one of .*hermes.*llama3_json") as refused:
        ActionParser("hermess", tokenizer())
    assert isinstance(refused.value, BadInput)


def test_a_parser_for_another_model_family_is_refused() -> None:
    with pytest.raises(UnknownToolParser, match=r"'llama3_json': it does not fit the model's tokenizer .*python_tag"):
        ActionParser("llama3_json", tokenizer())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_demonstrated_call_parses_back_to_the_same_call(arguments: dict[str, object]) -> None:
    text = render_call("price", arguments)
    if "tool_call>" in json.dumps(arguments):
        return
    assert parser().parse(text, "c-1") == ToolCall("c-1", "price", arguments)
