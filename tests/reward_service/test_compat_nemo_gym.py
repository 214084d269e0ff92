"""NeMo-Gym's `/verify`, over a socket, with rows of the form that its simple agent posts (Gym 07d6b0d, 0.5.1).

`Verified` is what Gym's agent reads the reply as: everything sent, a reward that is a number, components by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from pydantic import BaseModel, ConfigDict

from tests.reward_service.live import BY_OVERLAP, LostScorer, running

MESSAGE = {
    "id": "msg_1",
    "content": [{"annotations": [], "text": "42", "type": "output_text", "logprobs": []}],
    "role": "assistant",
    "status": "completed",
    "type": "message",
}
CALL = {"arguments": '{"item":"lamp"}', "call_id": "call_1", "name": "price", "type": "function_call", "id": "fc_1",
        "status": "completed"}  # fmt: skip
OUTPUT = {"call_id": "call_1", "output": "42", "type": "function_call_output", "id": None, "status": None}
REASONING = {"id": "rs_1", "summary": [], "type": "reasoning", "encrypted_content": None}
TOOL = {"name": "price", "parameters": {"type": "object", "properties": {"item": {"type": "string"}}}, "strict": True,
        "type": "function", "description": None}  # fmt: skip


def row(*output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    asked = {
        "input": [
            {"content": "Be brief.", "role": "developer", "type": "message"},
            {"content": "How much is the lamp?", "role": "user", "type": "message"},
        ],
        "tools": [TOOL],
        "parallel_tool_calls": True,
        "temperature": None,
    }
    response = {"id": "resp_1", "created_at": 1756074069.0, "error": None, "object": "response", "usage": None}
    return {"responses_create_params": asked, "response": response | {"output": list(output)}, **fields}


class Verified(BaseModel):
    model_config = ConfigDict(extra="allow")

    responses_create_params: dict[str, Any]
    response: dict[str, Any]
    reward: float
    reward_components: dict[str, float]


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with running() as address:
        yield address


async def post(host: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"http://{host}{path}", json=body) as response:
        return response.status, await response.json(content_type=None)


async def verify(host: str, body: dict[str, Any]) -> Verified:
    status, reply = await post(host, "/verify", body)
    assert status == 200, reply
    return Verified.model_validate(reply)


async def test_a_rollout_comes_back_as_it_was_with_its_reward(host):
    sent = row(REASONING, CALL, OUTPUT, MESSAGE, expected_answer="42", _ng_task_index=3, agent_ref={"name": "a"})
    reply = await verify(host, sent)
    # 0.6 for the call, less its price of 0.1, and 1 for the answer.
    assert reply.reward == pytest.approx(1.5)
    assert reply.reward_components == pytest.approx({"success": 0, "contribution": 0.6, "solved": 1, "step_cost": -0.1})
    echoed = reply.model_dump(exclude={"reward", "reward_components", "step_rewards"})
    assert echoed == sent
    assert reply.model_dump()["step_rewards"] == pytest.approx([0.5, 1.0])


async def test_what_is_said_and_called_before_a_result_is_one_turn(host):
    said = MESSAGE | {"content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]}
    other = CALL | {"call_id": "call_2", "arguments": '{"item":"table"}'}
    failed = OUTPUT | {"call_id": "call_2", "output": "Error: no table"}
    reply = await verify(host, row(said, CALL, other, OUTPUT, failed, MESSAGE, expected_answer="42"))
    assert reply.model_dump()["step_rewards"] == pytest.approx([0.5, -0.1, 1.0])


async def test_the_components_add_up_to_the_reward_and_are_the_same_for_every_task(host):
    first = await verify(host, row(MESSAGE, expected_answer=42))
    second = await verify(
        host, row(CALL, OUTPUT, MESSAGE, steptool_ground_truth={"answer": "41"}, expected_answer="42")
    )
    assert first.reward_components.keys() == second.reward_components.keys()
    assert (sum(first.reward_components.values()), first.reward) == (1.0, 1.0)
    # The contract's own ground truth goes before: 42 is wrong.
    assert (sum(second.reward_components.values()), second.reward) == pytest.approx((0.5, 0.5))


async def test_a_rollout_that_abstains_is_marked_as_gym_marks_a_judge_that_failed():
    with running(LostScorer(BY_OVERLAP)) as lost:
        reply = (await verify(lost, row(MESSAGE, expected_answer="42"))).model_dump()
    assert (reply["reward"], reply["_ng_failure_class"]) == (0.0, "judge_failed")
    assert reply["_ng_failure_judge_error"] == "judge: no reply within 30 s"


async def test_a_marked_row_that_is_verified_again_loses_its_mark(host):
    marked = row(
        MESSAGE, expected_answer="42", reward=0.0, _ng_failure_class="judge_failed", _ng_failure_judge_error="x"
    )
    reply = (await verify(host, marked)).model_dump()
    assert reply["reward"] == 1.0
    assert not {"_ng_failure_class", "_ng_failure_judge_error"} & reply.keys()


async def test_a_call_whose_result_the_row_does_not_have_abstains(host):
    calls = [CALL | {"call_id": f"call_{n}"} for n in (1, 2, 3)]
    reply = await verify(host, row(*calls, OUTPUT, MESSAGE, expected_answer="42"))
    assert reply.model_dump()["step_rewards"] == [pytest.approx(0.5), None, None, 1.0]
    unkept = await verify(host, row(MESSAGE, calls[0], MESSAGE, calls[1], MESSAGE, expected_answer="42"))
    assert unkept.model_dump()["step_rewards"] == [None, None, 1.0]


async def test_words_between_a_call_and_its_result_belong_to_the_calls_turn(host):
    reply = await verify(host, row(CALL, MESSAGE, OUTPUT, MESSAGE, expected_answer="42"))
    assert reply.model_dump()["step_rewards"] == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("output", [[], [REASONING]])
async def test_who_says_nothing_answers_with_nothing(host, output):
    reply = await verify(host, row(*output, expected_answer="42", ground_truth="a field of the row's own"))
    assert (reply.reward, reply.model_dump()["step_rewards"]) == (0.0, [0.0])
    assert "_ng_failure_class" not in reply.model_dump()


@pytest.mark.parametrize(
    ("output", "truth", "detail"),
    [
        ([OUTPUT], "42", "a tool result for 'call_1'"),
        ([{"type": "computer_call", "id": "x"}], "42", "found using 'type' does not match"),
        ([MESSAGE], ["42"], "ground truth: found a list"),
    ],
    ids=["a result alone", "another kind", "a list"],
)
async def test_a_row_that_is_no_conversation_with_functions_is_unprocessable(host, output, truth, detail):
    status, problem = await post(host, "/verify", row(*output, expected_answer=truth))
    assert status == 422
    assert detail in problem["detail"]


async def test_an_agent_may_begin_a_session_and_ask_whether_rows_can_be_verified_again(host):
    assert await post(host, "/seed_session", row(MESSAGE)) == (200, {})
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}/reverify_mode") as response:
        assert await response.json() == "stateless"
