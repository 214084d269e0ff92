"""Trajectories that came as one text: with ChatML's marks of turns, and without them."""

from __future__ import annotations

import pytest

from reward_service.hermes import continuation, from_first_answer, last_request, read_text
from reward_service.texts import MAX_CHARACTERS
from reward_service.wire import MAX_STEPS, StepItem
from tool_sandbox.tasks import StopReason
from tool_sandbox.tools import CallStatus

CALL = '<tool_call>\n{"name": "price", "arguments": {"item": "lamp"}}\n</tool_call>'
RESULT = "<tool_response>\n42\n</tool_response>"

MARKED = f"""<think>I could call <tool_call>nothing</tool_call>.</think>
Let me look.
{CALL}<|im_end|>
<|im_start|>user
{RESULT}<|im_end|>
<|im_start|>assistant
It costs 42.<|im_end|><|endoftext|>"""

# The same as a decoder leaves it that skips special tokens.
UNMARKED = f"""Let me look.
{CALL}
user
{RESULT}
assistant
It costs 42."""


def kinds(steps: tuple[StepItem, ...]) -> list[str]:
    return ["call" if step.call else "answer" if step.answer is not None else "parse_error" for step in steps]


@pytest.mark.parametrize("text", [MARKED, UNMARKED], ids=["marked", "unmarked"])
def test_a_call_its_result_and_the_answer_are_two_steps(text):
    read = read_text(text)
    call, answer = read.steps
    assert call.call is not None
    assert (call.call.name, call.call.arguments) == ("price", {"item": "lamp"})
    assert (call.observation, call.status) == ("42", CallStatus.OK)
    assert (answer.answer, read.stop) == ("It costs 42.", StopReason.ANSWERED)


def test_a_text_without_calls_is_an_answer():
    read = read_text("<think>6 times 7</think>\n\n42</s>")
    assert (kinds(read.steps), read.steps[0].answer, read.stop) == (["answer"], "42", StopReason.ANSWERED)


def test_who_writes_nothing_answers_with_nothing():
    assert read_text("<|im_end|>\n").steps[0].answer == ""
    assert read_text("").steps[0].answer == ""


@pytest.mark.parametrize("pattern", ["{0}{1}", "{0}\n{1}"])
def test_calls_of_one_turn_get_their_results_in_order(pattern):
    other = CALL.replace("lamp", "table")
    results = pattern.format(RESULT, RESULT.replace("42", "Error: no table"))
    for text in (
        f"{CALL}\n{other}<|im_end|>\n<|im_start|>tool\n{results}<|im_end|>",
        f"{CALL}\n{other}\ntool\n{results}",
    ):
        first, second = read_text(text).steps
        assert (first.observation, first.status) == ("42", CallStatus.OK)
        assert (second.observation, second.status) == ("Error: no table", CallStatus.TOOL_ERROR)


@pytest.mark.parametrize("text", [CALL, f"{CALL}<|im_end|>", CALL.removesuffix("</tool_call>")])
def test_a_last_call_without_a_result_ran_nothing_and_is_nobodys_excuse(text):
    read = read_text(text)
    assert read.steps[0].parse_error == "the text ends before the call had a result"
    assert read.stop is StopReason.STEP_BUDGET


@pytest.mark.parametrize(
    "body",
    [
        "price(lamp)",
        '{"arguments": {}}',
        '{"name": "price", "arguments": [1]}',
        '{"name": "price", "arguments": "lamp"}',
        '{"name": "price", "arguments": {"n": NaN}}',
        '{"name": "price", "arguments": {"item": "\\ud800"}}',
        '["price"]',
        "[" * 5000,
        '{"name": "price", "arguments": {"deep": ' + "[" * 400 + "]" * 400 + "}}",
        "",
    ],
    ids=[
        "no json",
        "no name",
        "a list",
        "a string",
        "nan",
        "half a character",
        "an array",
        "deep",
        "deeper",
        "nothing",
    ],
)
def test_a_call_that_nobody_can_read_is_an_unread_turn(body):
    (step,) = read_text(f"<tool_call>{body}</tool_call>").steps
    assert step.parse_error == "no JSON object with a name and an object of arguments"


def test_arguments_may_come_as_the_json_text_of_an_object():
    call = '<tool_call>{"name": "price", "arguments": "{\\"item\\": \\"lamp\\"}"}</tool_call>'
    (step,) = read_text(f"{call}\nuser\n{RESULT}").steps
    assert step.call is not None
    assert step.call.arguments == {"item": "lamp"}


def test_a_model_that_writes_a_tools_result_itself_ran_nothing():
    read = read_text(f"{CALL}\n{RESULT}\nThe answer is 42.<|im_end|>\n<|im_start|>user\nReally?<|im_end|>")
    assert kinds(read.steps) == ["parse_error"]
    assert read.steps[0].parse_error == "the turn writes a tool's result itself"


def test_a_model_that_goes_on_before_its_call_had_a_result_ran_nothing():
    read = read_text(f"{CALL}<|im_end|>\n<|im_start|>assistant\n42<|im_end|>")
    assert kinds(read.steps) == ["parse_error", "answer"]
    assert read.steps[0].parse_error == "the model went on before the call had a result"


def test_a_result_without_a_call_changes_nothing():
    assert kinds(read_text(f"{RESULT}\nassistant\n42").steps) == ["answer"]


def test_a_text_that_ends_after_a_result_has_no_answer():
    for text in (f"{CALL}\nuser\n{RESULT}\nassistant\n", f"{CALL}<|im_end|><|im_start|>user\n{RESULT}<|im_end|>"):
        read = read_text(text)
        assert (kinds(read.steps), read.stop) == (["call"], StopReason.STEP_BUDGET)


def test_an_answer_may_be_the_name_of_a_role():
    assert read_text("Who asked?\nuser").steps[0].answer == "Who asked?\nuser"


def test_long_texts_are_cut_to_what_the_contract_takes():
    call, answer = read_text(
        f"{CALL}\nuser\n<tool_response>{'x' * 70_000}</tool_response>\nassistant\n{'y' * 70_000}"
    ).steps
    assert (len(call.observation or ""), len(answer.answer or "")) == (MAX_CHARACTERS, MAX_CHARACTERS)
    # 70,000 − 65,536.
    assert (answer.answer or "").endswith("… [4464 characters and more cut]")


def test_steps_over_the_limit_are_left_out():
    read = read_text(CALL * (MAX_STEPS + 5))
    assert (len(read.steps), read.stop) == (MAX_STEPS, StopReason.STEP_BUDGET)


def test_half_a_character_is_replaced():
    assert read_text("4\ud8002").steps[0].answer == "4?2"


@pytest.mark.parametrize(
    "part", [" ", "\n", "<tool_call>", "<tool_response>", "<|im_start|>", "<|im_end|>", "<pad>", "</think>"]
)
def test_no_text_takes_long_to_read(part):
    # Quadratic work on a million characters would outlast the time limit of the test many times over.
    assert len(read_text(part * (1_000_000 // len(part)) + "x").steps) >= 1


PROMPT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\nHow much is the lamp?<|im_end|>\n<|im_start|>assistant\n"
)


def test_what_follows_the_prompt_is_the_models():
    assert continuation(PROMPT, f"{PROMPT}42") == "42"
    assert continuation("", "42") == "42"


def test_a_prompt_that_was_cut_at_its_beginning_is_known_by_its_end():
    assert continuation(PROMPT, f"{PROMPT[30:]}42") == "42"
    # Its last 64 characters come twice; the first time they do not end what is an end of the prompt.
    twice = "a" * 10 + "b" * 64 + "c" + "b" * 64
    assert continuation(twice, twice[5:] + "42") == "42"


@pytest.mark.parametrize("text", ["something else", "x" * 500, PROMPT[:40] + "42"])
def test_a_text_that_is_no_continuation_is_none(text):
    assert continuation(PROMPT, text) is None


def test_the_last_request_of_the_user_is_found_in_a_templated_prompt():
    assert last_request(PROMPT) == "How much is the lamp?"
    assert last_request(" How much? ") == "How much?"


def test_the_models_part_of_a_whole_chat_begins_at_its_first_turn():
    assert from_first_answer(f"{PROMPT}42<|im_end|>") == "<|im_start|>assistant\n42<|im_end|>"
    assert from_first_answer("42") == "42"
