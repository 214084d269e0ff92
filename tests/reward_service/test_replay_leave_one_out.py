"""Leave-one-out on real sessions: what every call of a known way was worth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reward_service.wire import ConversationItem
from tests.reward_service.replays import contributions, dialogue, of_demonstration, oracle, played, scored, shown, task
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus, ToolCall

LEAVE_ONE_OUT = {"kind": "leave_one_out"}
NOTHING = ToolCall("c", "nothing", {})
"""A tool that no task offers."""


def loo(trajectory: dict[str, Any]) -> list[float | None]:
    return contributions(LEAVE_ONE_OUT, trajectory)


@pytest.mark.parametrize(("level", "needed"), [("L0", 1), ("L1", 2), ("L4", 6)])
def test_every_call_of_the_shortest_way_to_an_answer_is_worth_1_and_the_answer_has_no_contribution(level, needed):
    way = oracle(task(level))
    assert loo(of_demonstration(way)) == [1.0] * len(way.actions) + [None]
    assert len(way.actions) >= needed


def test_a_useless_call_in_the_middle_is_worth_0_and_the_needed_ones_around_it_1():
    first, second = oracle(task("L1")).actions
    assert loo(played(task("L1"), [first, NOTHING, second], oracle(task("L1")).answer)) == [1.0, 0.0, 1.0, None]


def test_the_first_call_of_a_chain_takes_with_it_what_rests_on_it():
    way = oracle(task("L1"))
    reasons = [step.why for step in scored(LEAVE_ONE_OUT, of_demonstration(way)).steps]
    assert reasons[0] == "without it and 1 more that rest on it: not solved; with it: solved"
    assert reasons[1] == "without it: not solved; with it: solved"


def test_a_needed_call_that_was_made_twice_is_worth_0_each_time():
    way = oracle(task("L0"))
    assert loo(played(task("L0"), [*way.actions, *way.actions], way.answer)) == [0.0, 0.0, None]


def test_with_a_wrong_answer_no_call_changes_the_outcome():
    way = oracle(task("L1"))
    assert loo(played(task("L1"), way.actions, "nobody")) == [0.0, 0.0, None]


def test_every_call_to_a_target_state_is_worth_1():
    way = oracle(task("L3"))
    assert loo(played(task("L3"), way.actions, "done")) == [1.0] * len(way.actions) + [None]


def test_a_write_that_was_made_once_too_often_is_worth_minus_1_each_time():
    spoiled, calls = _spoiled()
    # Without either of the two the target state is reached; the reads before them change nothing any more.
    assert loo(played(spoiled, calls, "done")) == [*(-1.0 if call == calls[-1] else 0.0 for call in calls), None]


def _spoiled() -> tuple[Task, list[ToolCall]]:
    """The oracle's way to a state, and its last call once more, which leads away again."""
    for index in range(200):
        candidate = task("L3", index)
        calls = [*oracle(candidate).actions, oracle(candidate).actions[-1]]
        if played(candidate, calls, "done")["steps"][-2]["progress"]["after"] > 0:
            return candidate, calls
    raise AssertionError("no task can be spoiled by the last call of its way")


def test_where_infrastructure_ended_the_episode_the_calls_still_needed_decide():
    way = oracle(task("L1"))
    first, second = way.actions
    cut = played(task("L1"), [first, NOTHING], None, stop="infrastructure")
    assert loo(cut) == [1.0, 0.0]
    lost = {"index": 2, "call": {"name": second.name, "arguments": dict(second.arguments)}, "status": "infra_error"}
    assert loo(cut | {"steps": [*cut["steps"], lost]}) == [1.0, 0.0, None]
    reasons = [step.why for step in scored(LEAVE_ONE_OUT, cut).steps]
    assert reasons == ["calls still needed without it: 2; with it: 1", "calls still needed without it: 1; with it: 1"]


def test_a_turn_that_ran_nothing_contributed_nothing():
    way = oracle(task("L0"))
    plain = played(task("L0"), way.actions, way.answer)
    unread = {"index": 0, "parse_error": "no JSON", "status": "invalid_arguments", "observation": "error: no JSON"}
    steps = [unread, *({**step, "index": step["index"] + 1} for step in plain["steps"])]
    assert loo(plain | {"steps": steps}) == [0.0, 1.0, None]


def test_chat_messages_are_replayed_as_steps_are():
    way = oracle(task("L1"))
    plain = of_demonstration(way)
    messages: list[dict[str, Any]] = [{"role": "user", "content": way.task.prompt}]
    for step in plain["steps"][:-1]:
        name = f"call_{step['index']}"
        messages += [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": name,
                        "type": "function",
                        "function": {"name": step["call"]["name"], "arguments": json.dumps(step["call"]["arguments"])},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": name, "content": step["observation"]},
        ]
    messages.append({"role": "assistant", "content": way.answer})
    chat = ConversationItem.model_validate({"id": "chat", "task": plain["task"], "messages": messages}).trajectory()
    assert loo(chat.model_dump(mode="json")) == [1.0, 1.0, None]


def test_calls_that_are_refused_in_the_replay_as_they_were_in_the_episode_reproduce_it():
    way = oracle(task("L0"))
    refused = ToolCall("c", way.actions[0].name, {"no_such": "argument"})
    trajectory = played(task("L0"), [refused, *way.actions], way.answer)
    assert trajectory["steps"][0]["status"] is CallStatus.INVALID_ARGUMENTS
    assert loo(trajectory) == [0.0, 1.0, None]


def test_sessions_that_cannot_be_copied_are_repeated():
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")
    toolset = load_toolset("reasoning")
    way = shown(toolset, toolset.sample_task(Split.TRAIN, "gcd", 0), noise=1.0)
    # The error breaks the expression off; the call after it gives the answer.
    assert loo(of_demonstration(way)) == [0.0, 1.0, None]


def test_a_dialogue_is_replayed_with_its_user():
    pytest.importorskip("bfcl_eval", reason="the extra `bfcl` is not installed")
    trajectory = of_demonstration(dialogue())
    # Every call of the ground truth is owed, so that without any of them the task is not solved.
    assert loo(trajectory) == [1.0, 1.0, None, 1.0, None]
