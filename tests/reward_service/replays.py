"""Trajectories of scripted policies as the contract spells them, for the tests of replays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from reward_service.config import RewardConfig
from reward_service.rewards import TrajectoryReward
from reward_service.scoring import Recipe
from reward_service.wire import TrajectoryItem
from tool_sandbox.demonstrations import Demonstration, demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import FindsTasks, Toolset
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallOutcome, ToolCall

LEDGER = LedgerToolset()


def task(level: str, index: int = 0, split: Split = Split.TRAIN) -> Task:
    return LEDGER.sample_task(split, level, index)


def shown(toolset: Toolset, task: Task, noise: float = 0.0) -> Demonstration:
    """What the toolset's own demonstrator does."""
    policy = toolset.demonstrator(noise, 0)
    assert policy is not None
    return demonstrate(toolset, task, policy, 20)


def dialogue() -> Demonstration:
    """Of BFCL: two calls, an answer, the user speaks on, one call, an answer."""
    toolset = load_toolset("bfcl")
    assert isinstance(toolset, FindsTasks)
    return shown(toolset, toolset.find_task("bfcl/multi_turn_base_147"))


def oracle(task: Task) -> Demonstration:
    return shown(LEDGER, task)


def called(index: int, call: ToolCall, outcome: CallOutcome) -> dict[str, Any]:
    progress, result = outcome.progress, outcome.result
    return {
        "index": index,
        "call": {"name": call.name, "arguments": dict(call.arguments)},
        "status": result.status,
        "observation": result.content,
        "progress": None if progress is None else {"before": progress.before, "after": progress.after},
    }


def answered(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "answer": text}


def played(task: Task, calls: Sequence[ToolCall], answer: str | None, **changes: Any) -> dict[str, Any]:
    """What comes of `calls` in the task's own world, and then the answer."""
    session = LEDGER.open(task)
    steps = [called(index, call, session.call(call)) for index, call in enumerate(calls)]
    return trajectory(task, steps, answer, session.state_hash()) | changes


def trajectory(task: Task, steps: list[dict[str, Any]], answer: str | None, state: str | None) -> dict[str, Any]:
    truth = task.ground_truth
    return {
        "id": "t-1",
        "task": {
            "id": task.id,
            "toolset": task.toolset,
            "ground_truth": {
                "answer": truth.answer,
                "state_hash": truth.state_hash,
                "minimum_calls": truth.minimum_calls,
            },
        },
        "steps": steps if answer is None else [*steps, answered(len(steps), answer)],
        "stop": "step_budget" if answer is None else "answered",
        "final_state_hash": state,
    }


def of_demonstration(run: Demonstration, **changes: Any) -> dict[str, Any]:
    """A demonstration of any toolset, with what the user of a dialogue was answered."""
    ends = {turn.calls: turn.answer for turn in run.turns}
    steps: list[dict[str, Any]] = []
    for position, (call, outcome) in enumerate(zip(run.actions, run.outcomes, strict=True)):
        if position in ends:
            steps.append(answered(len(steps), ends[position]))
        steps.append(called(len(steps), call, outcome))
    return trajectory(run.task, steps, run.answer, None) | {"checked": run.solved} | changes


def recipe(contribution: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe(RewardConfig.model_validate({"signals": {"contribution": contribution}, **settings}))


def scored(contribution: dict[str, Any], trajectory: dict[str, Any]) -> TrajectoryReward:
    return asyncio.run(recipe(contribution).score(TrajectoryItem.model_validate(trajectory)))


def contributions(contribution: dict[str, Any], trajectory: dict[str, Any]) -> list[float | None]:
    return [step.signals["contribution"] for step in scored(contribution, trajectory).steps]
