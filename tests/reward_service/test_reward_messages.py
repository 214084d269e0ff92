"""Chat messages in OpenAI's format become steps."""

from __future__ import annotations

from typing import Any

import pytest

from reward_service.errors import UnscorableTrajectory
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
