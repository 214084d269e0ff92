"""From a trajectory of the rollouts to its rewards and back."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from actors.scoring import score, to_wire
from actors.trajectory import Answer, ParseFailure, Step, Trajectory, VersionSpan
from reward_service.config import LinearShaping, PaperShaping, RewardConfig, Shaping
from reward_service.errors import ScorerUnavailable, UnscorableTrajectory
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.texts import MAX_CHARACTERS
from reward_service.wire import MAX_TOOLS, MAX_TRAJECTORIES
from tests.reward_service.judges import FakeJudge, grades, in_memory
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall, ToolResult, ToolSpec


def step(action, result=None, progress=None):
    return Step((1, 2), (3,), (-0.5,), (VersionSpan(0, 0, 1),), action, result, progress)


def called(
    status: CallStatus = CallStatus.OK,
    progress: Progress | None = Progress(1, 0),  # noqa: B008
    content: str = "42",
    **arguments: Any,
) -> Step:
    call = ToolCall("c", "price", arguments or {"item": "lamp"})
    return step(call, ToolResult("c", status, content), progress)


def played(*steps, id="t-1", stop=StopReason.ANSWERED, truth=GroundTruth(answer="42", minimum_calls=1)):  # noqa: B008
    task = Task("task", "ledger", "How much?", ("price",), truth, "L0", Split.TRAIN, {})
    return Trajectory(id, "g", task, steps, stop)


PRICE = ToolSpec("price", "What an item costs, in EUR.", {"type": "object", "properties": {"item": {"type": "string"}}})


def specs(toolset: str):
    return {"price": PRICE}


USEFUL = played(called(), step(Answer("42")))


class LosesItsScorer(Recipe):
    """Scores by rules, but for the trajectory named `lost`."""

    async def score(self, item, plug_in_seconds=None):
        if item.id == "lost":
            raise ScorerUnavailable("judge: no reply within 30 s")
        return await super().score(item)


def source(shaping: Shaping = LinearShaping(), scorer: type[Recipe] = Recipe) -> RewardService:  # noqa: B008
    return RewardService(scorer(RewardConfig(shaping=shaping)))


async def test_every_step_comes_back_with_its_reward():
    (scored,) = await score(source(), [USEFUL], specs)
    assert scored.trajectory is USEFUL
    assert [step.value for step in scored.reward.steps] == pytest.approx([0.5, 1.0])
    assert scored.abstained_steps == 0


async def test_every_kind_of_step_keeps_its_meaning():
    trajectory = played(
        step(ParseFailure("<tool", "no JSON"), ToolResult("c", CallStatus.INVALID_ARGUMENTS, "error: no JSON")),
        called(CallStatus.TIMEOUT, Progress(1, 1)),
        called(CallStatus.INFRA_ERROR, None),
        called(),
        step(ParseFailure("la la", "turn ran out of tokens")),
        stop=StopReason.TURN_TOO_LONG,
    )
    (scored,) = await score(source(), [trajectory], specs)
    values = [step.value for step in scored.reward.steps]
    assert values == [pytest.approx(-0.1), pytest.approx(-0.1), None, pytest.approx(0.5), pytest.approx(-0.1)]
    assert scored.abstained_steps == 1
    assert scored.reward.solved == 0.0


async def test_a_trajectory_whose_scorer_was_lost_abstains_and_its_neighbours_do_not(caplog):
    lost = played(called(), step(Answer("42")), id="lost")
    with caplog.at_level(logging.WARNING):
        first, second = await score(source(scorer=LosesItsScorer), [USEFUL, lost], specs)
    assert first.abstained_steps == 0
    assert second.abstained_steps == 2
    assert second.reward.solved is None
    assert dict(second.reward.steps[0].signals) == {"success": None, "contribution": None, "solved": None}
    assert "trajectory lost abstains" in caplog.text


async def test_a_trajectory_that_cannot_be_scored_is_our_bug_and_raises():
    with pytest.raises(UnscorableTrajectory, match=r"trajectory 't-1'.*step 0: no progress record"):
        await score(source(PaperShaping()), [played(called(progress=None), step(Answer("42")))], specs)


async def test_an_episode_that_never_began_is_scored_without_steps():
    (scored,) = await score(source(), [played(stop=StopReason.INFRASTRUCTURE)], specs)
    assert (scored.reward.steps, scored.reward.solved) == ((), None)


async def test_an_answer_whose_final_state_was_lost_abstains():
    (scored,) = await score(source(), [played(called(), step(Answer("42")), stop=StopReason.INFRASTRUCTURE)], specs)
    assert [step.value for step in scored.reward.steps] == [pytest.approx(0.5), None]


async def test_more_trajectories_than_one_request_carries_are_all_scored():
    many = [played(step(Answer("42")), id=f"t-{n}") for n in range(MAX_TRAJECTORIES + 3)]
    scored = await score(source(), many, specs)
    assert [item.trajectory.id for item in scored] == [item.id for item in many]


async def test_nothing_to_score_asks_nobody():
    assert await score(source(), [], specs) == []


def test_whatever_a_model_writes_can_be_sent():
    brackets: list = []
    for _ in range(1000):
        brackets = [brackets]
    item = to_wire(
        played(called(a=float("nan"), b="\ud800", c=brackets, d={"\udfff": -float("inf")}), step(Answer("\ud800"))),
        specs,
    )
    call = item.steps[0].call
    assert call is not None
    assert (call.arguments["a"], call.arguments["b"], call.arguments["d"]) == ("nan", "?", {"?": "-inf"})
    assert item.model_validate_json(item.model_dump_json()) == item


async def test_a_judge_of_our_own_trajectories_is_told_the_task_and_what_its_tools_are():
    fake = FakeJudge(grades(1, 5, "Solved"))
    judge = in_memory().judge(fake)
    await judge.judge(to_wire(USEFUL, specs))
    await judge.aclose()
    record = fake.asked[0].record
    assert record["task"] == "How much?"
    assert "What an item costs, in EUR." in json.dumps(record["tools"])


def test_a_task_that_offers_more_tools_than_the_contract_carries_can_be_sent():
    crowded = replace(USEFUL, task=replace(USEFUL.task, tools=("price",) * (MAX_TOOLS + 1)))
    assert len(to_wire(crowded, specs).tools) == MAX_TOOLS


def test_the_toolset_goes_along_so_that_the_task_can_be_opened_again_but_never_the_path_of_a_file():
    plain = played(step(Answer("42")))
    assert to_wire(plain, specs).task.toolset == "ledger"
    filed = replace(plain, task=replace(plain.task, toolset="jsonl:/home/anna/tasks.jsonl"))
    assert to_wire(filed, specs).task.toolset is None


def test_an_observation_over_the_limit_is_cut_with_a_mark():
    sent = to_wire(played(called(content="x" * (MAX_CHARACTERS + 5)), step(Answer("42"))), specs).steps[0].observation
    assert sent is not None
    assert len(sent) == MAX_CHARACTERS
    assert sent.endswith("… [5 characters and more cut]")


def test_tokens_do_not_leave_the_house():
    assert not {"prompt_ids", "action_ids", "logprobs"} & set(to_wire(USEFUL, specs).model_dump()["steps"][0])


async def test_a_dialogue_is_scored_by_the_toolsets_own_verdict():
    steps = (called(progress=Progress(2, 1)), step(Answer("and then?")), called(), step(Answer("nonsense")))
    dialogue = replace(played(*steps, truth=GroundTruth(minimum_calls=2)), checked=True)
    (scored,) = await score(source(), [dialogue], specs)
    assert [one.value for one in scored.reward.steps] == pytest.approx([0.5, 0.0, 0.5, 1.0])
    assert scored.reward.solved == 1.0
