"""Chat messages in OpenAI's format become steps."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from reward_service.errors import UnscorableTrajectory
from reward_service.texts import MAX_CHARACTERS
from reward_service.wire import ConversationItem, TrajectoryItem
from tool_sandbox.tasks import StopReason
from tool_sandbox.tools import CallStatus

USER = {"role": "user", "content": "What does a lamp cost?"}


def asked(id: str, name: str = "price", arguments: Any = '{"item": "lamp"}') -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*entries: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(entries)}


def result(id: str, content: Any = "42", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def read(*messages: dict[str, Any], **more: Any) -> TrajectoryItem:
    return ConversationItem.model_validate({"id": "t", "messages": messages, **more}).trajectory()


def test_a_call_its_result_and_the_answer_are_two_steps():
    item = read(USER, calls(asked("c1"), content="Let me look."), result("c1"), said("42"))
    first, last = item.steps
    assert first.call is not None
    assert (first.call.name, first.call.arguments) == ("price", {"item": "lamp"})
    assert (first.status, first.observation, first.tool_call_id) == (CallStatus.OK, "42", "c1")
    assert (last.index, last.answer) == (1, "42")
    assert (item.stop, item.task.prompt) == (StopReason.ANSWERED, "What does a lamp cost?")


def test_parallel_calls_are_steps_of_their_own_and_results_may_come_in_any_order():
    item = read(USER, calls(asked("a"), asked("b", "stock")), result("b", "7"), result("a", "42"), said("42"))
    assert [(step.tool_call_id, step.observation) for step in item.steps] == [("a", "42"), ("b", "7"), (None, None)]


def test_a_result_that_reads_like_a_failure_is_one_unless_its_framework_says_otherwise():
    texts = [result("c1", "error: no lamp"), result("c1", "42", is_error=True), result("c1", "error", status="success")]
    statuses = [read(USER, calls(asked("c1")), text, said("?")).steps[0].status for text in texts]
    assert statuses == [CallStatus.TOOL_ERROR, CallStatus.TOOL_ERROR, CallStatus.OK]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("failed", CallStatus.TOOL_ERROR),
        ("FAILURE", CallStatus.TOOL_ERROR),
        ("Error", CallStatus.TOOL_ERROR),
        ("timed out", CallStatus.TIMEOUT),
        ("Invalid-Arguments", CallStatus.INVALID_ARGUMENTS),
        ("denied", CallStatus.DENIED),
        ("infra_error", CallStatus.INFRA_ERROR),
        ("Succeeded", CallStatus.OK),
        ("completed", CallStatus.OK),
        (" ", CallStatus.OK),
    ],
)
def test_the_words_of_frameworks_decide_whatever_the_result_reads_like(word, status):
    assert read(USER, calls(asked("c1")), result("c1", "ok", status=word), said("?")).steps[0].status is status


@pytest.mark.parametrize("more", [{}, {"is_error": False}], ids=["alone", "beside a flag"])
def test_a_status_that_nobody_knows_is_an_error_that_names_it_and_what_is_known(more):
    reason = r"message 2: found the status 'flopped'; expected one of ok, .*failed"
    with pytest.raises(UnscorableTrajectory, match=reason):
        read(USER, calls(asked("c1")), result("c1", "ok", status="flopped", **more), said("?"))


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", '"lamp"', "null"])
def test_arguments_that_are_no_object_are_an_unread_turn(arguments):
    step, _ = read(USER, calls(asked("c1", arguments=arguments)), result("c1", "error: bad JSON"), said("?")).steps
    assert (step.call, step.parse_error, step.status) == (None, "its arguments are no JSON object", None)
    assert (step.observation, step.tool_call_id) == ("error: bad JSON", "c1")


def test_empty_arguments_are_an_empty_object_and_parsed_ones_are_taken_as_they_are():
    read_calls = [
        read(USER, calls(asked("c", arguments=given)), result("c"), said("?")).steps[0].call for given in ("", {"a": 1})
    ]
    assert [call and call.arguments for call in read_calls] == [{}, {"a": 1}]


def test_arguments_that_are_null_are_none_and_may_be_longer_than_a_text():
    long = "x" * 100_000
    given = [asked("a", arguments=None), asked("b", arguments=f'{{"text": "{long}"}}')]
    steps = read(USER, calls(*given), result("a"), result("b"), said("?")).steps
    assert [step.call and step.call.arguments for step in steps[:2]] == [{}, {"text": long}]


@pytest.mark.parametrize("arguments", ['{"a": NaN}', '{"a": "\\ud800"}', '{"a": 1e999}', "[" * 100], ids=str)
def test_arguments_that_no_json_reader_takes_are_an_unread_turn(arguments):
    step, _ = read(USER, calls(asked("c1", arguments=arguments)), result("c1"), said("?")).steps
    assert step.parse_error == "its arguments are no JSON object"


def test_long_texts_are_cut_and_say_so():
    item = read(USER | {"content": "p" * 70_000}, calls(asked("c1")), result("c1", "r" * 70_000), said("a" * 70_000))
    texts = [item.task.prompt, item.steps[0].observation, item.steps[1].answer]
    # 70,000 − 65,536.
    assert [text and (len(text), text.endswith("… [4464 characters and more cut]")) for text in texts] == [
        (MAX_CHARACTERS, True)
    ] * 3


def test_a_failure_is_read_from_the_whole_result_and_not_from_what_the_cut_leaves_of_it():
    failed = '{"text": "' + "x" * 70_000 + '", "error": "boom"}'
    step, _ = read(USER, calls(asked("c1")), result("c1", failed), said("?")).steps
    assert step.status is CallStatus.TOOL_ERROR


def test_a_function_call_and_its_result_as_they_were_before_tool_calls_are_a_step():
    asks = {"role": "assistant", "content": None, "function_call": {"name": "price", "arguments": '{"item": "lamp"}'}}
    answers = {"role": "function", "name": "price", "content": "42"}
    first, second, last = read(USER, asks, answers, asks, answers | {"content": "error: gone"}, said("42")).steps
    assert first.call is not None
    assert (first.call.arguments, first.status, first.tool_call_id) == ({"item": "lamp"}, CallStatus.OK, None)
    assert (second.status, second.observation) == (CallStatus.TOOL_ERROR, "error: gone")
    assert last.answer == "42"
    with pytest.raises(UnscorableTrajectory, match=r"message 2: no result yet for the calls \['function_call'\]"):
        read(USER, asks, said("42"))


def test_a_call_that_is_none_of_a_function_is_an_unread_turn():
    custom = {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    step, _ = read(USER, calls(custom), result("c1", "a.txt"), said("?")).steps
    assert (step.parse_error, step.observation) == ("a call of the type 'custom', not of a function", "a.txt")
    with pytest.raises(ValidationError, match="call 'c1': found no `function`"):
        read(USER, calls({"id": "c1", "type": "function"}), result("c1"), said("?"))


def test_tools_are_taken_as_they_are_and_null_is_nothing():
    tools = [
        {
            "type": "function",
            "function": {"name": "price", "description": None, "parameters": None, "return": {"a": 1}},
        },
        {"type": "function", "function": {"name": "stock", "description": "d" * 70_000}, "cache_control": {}},
        {"type": "custom", "custom": {"name": "shell"}},
    ]
    names = [tool.function and tool.function.name for tool in read(USER, said("?"), tools=tools).tools]
    assert names == ["price", "stock", None]


@pytest.mark.parametrize(("answer", "text"), [(42, "42"), (0.5, "0.5"), ("42", "42"), (None, None)])
def test_a_right_answer_may_be_a_number(answer, text):
    task = {"id": "q", "ground_truth": {"answer": answer}}
    assert read(USER, said("42"), task=task).task.ground_truth.answer == text


def test_content_in_parts_is_joined_and_pictures_leave_their_kind():
    parts = [{"type": "text", "text": "look:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert read({"role": "user", "content": parts}, said("a cat")).task.prompt == "look:\n[image_url]"


def test_an_answer_that_the_user_replies_to_is_a_step_in_between():
    item = read(USER, said("Which lamp?"), {"role": "user", "content": "The red one."}, said("42"))
    assert [step.answer for step in item.steps] == ["Which lamp?", "42"]


def test_a_conversation_that_ends_with_a_result_ran_out_of_budget_and_a_call_without_one_is_lost():
    assert read(USER, calls(asked("c1")), result("c1")).stop is StopReason.STEP_BUDGET
    lost = read(USER, calls(asked("c1")), result("c1"), calls(asked("c2")))
    assert [step.status for step in lost.steps] == [CallStatus.OK, CallStatus.INFRA_ERROR]


def test_what_the_caller_says_of_the_end_counts():
    assert read(USER, said("hm"), stop="infrastructure").stop is StopReason.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER], "no turn of the assistant"),
        ([USER, result("c1"), said("42")], "message 1: a tool result for 'c1', but the calls without a result are []"),
        ([USER, calls(asked("c1")), said("42")], r"message 2: no result yet for the calls \['c1'\]"),
        ([USER, calls(asked("c1"), asked("c1")), result("c1")], r"message 1: the calls \['c1', 'c1'\] share an id"),
    ],
    ids=["nothing said", "a result alone", "no result", "one id twice"],
)
def test_messages_that_are_no_conversation_say_where(messages, reason):
    with pytest.raises(UnscorableTrajectory, match=reason.replace("[]", r"\[\]")):
        read(*messages)
