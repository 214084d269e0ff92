"""Scored trajectories, and the way from a trajectory to the reward service and back.

Owns `ScoredTrajectory` and the conversion to the contract of `POST /v1/score`. Loads neither torch nor vLLM nor Ray.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue

from actors.trajectory import Answer, ParseFailure, Step, Trajectory
from reward_service.client import RewardSource
from reward_service.errors import UnscorableTrajectory
from reward_service.rewards import StepReward, TrajectoryReward
from reward_service.texts import cut
from reward_service.tool_items import ToolItem
from reward_service.wire import (
    MAX_TOOLS,
    MAX_TRAJECTORIES,
    CallItem,
    GroundTruthItem,
    ItemResult,
    ProgressItem,
    ScoredItem,
    ScoreRequest,
    StepItem,
    TaskItem,
    TrajectoryItem,
)
from tool_sandbox.registry import JSONL_PREFIX
from tool_sandbox.tasks import Task
from tool_sandbox.tools import Specs, ToolCall

logger = logging.getLogger(__name__)

_MAX_DEPTH = 32
"""Of nested arguments; what a model nests deeper carries no meaning, and validators refuse it."""


@dataclass(frozen=True, slots=True)
class ScoredTrajectory:
    """A trajectory and one reward for each of its steps."""

    trajectory: Trajectory
    reward: TrajectoryReward

    def __post_init__(self) -> None:
        steps, rewards = len(self.trajectory.steps), len(self.reward.steps)
        if steps != rewards:
            raise ValueError(
                f"trajectory {self.trajectory.id!r}: {rewards} step rewards for {steps} steps; "
                "score every step, and abstain where there is no verdict"
            )

    @property
    def abstained_steps(self) -> int:
        """Steps without credit."""
        return sum(step.abstained for step in self.reward.steps)


async def score(client: RewardSource, trajectories: Sequence[Trajectory], specs: Specs) -> list[ScoredTrajectory]:
    """Every trajectory with its rewards, in order. One that infrastructure could not score abstains at every step.

    `specs` tells what the tools of a task are, which the service's judges are told.

    Raises:
        UnscorableTrajectory: the service cannot score what we sent; a bug of ours, or of the configuration.
        RewardRequestError: the service could not be asked; see `reward_service.errors`.
    """
    scored: list[ScoredTrajectory] = []
    for start in range(0, len(trajectories), MAX_TRAJECTORIES):
        part = trajectories[start : start + MAX_TRAJECTORIES]
        response = await client.score(ScoreRequest(trajectories=tuple(to_wire(item, specs) for item in part)))
        pairs = zip(part, response.results, strict=True)
        scored += [ScoredTrajectory(item, _reward(item, result, response.reward_version)) for item, result in pairs]
    return scored


def to_wire(trajectory: Trajectory, specs: Specs) -> TrajectoryItem:
    """The trajectory as the contract spells it: everything that may count, what a judge has to know, and no token."""
    known, task = specs(trajectory.task.toolset), trajectory.task
    return TrajectoryItem(
        id=trajectory.id,
        steps=tuple(_step(index, step) for index, step in enumerate(trajectory.steps)),
        task=_task(task),
        # Nobody's context holds more, and a task that offers more can be scored all the same.
        tools=tuple(ToolItem.model_validate(known[name].openai_function()) for name in task.tools[:MAX_TOOLS]),
        stop=trajectory.stop,
        final_state_hash=trajectory.final_state_hash,
        checked=trajectory.checked,
    )


def _task(task: Task) -> TaskItem:
    truth = task.ground_truth
    target = GroundTruthItem(answer=truth.answer, state_hash=truth.state_hash, minimum_calls=truth.minimum_calls)
    # A file of tasks is no installed toolset: whoever scores may not have it, and its path is nobody's business.
    toolset = None if task.toolset.startswith(JSONL_PREFIX) else task.toolset
    return TaskItem(id=task.id, level=task.level, ground_truth=target, prompt=_text(task.prompt), toolset=toolset)


def _step(index: int, step: Step) -> StepItem:
    result, progress = step.result, step.progress
    return StepItem(
        index=index,
        call=_call(step.action) if isinstance(step.action, ToolCall) else None,
        answer=_text(step.action.text) if isinstance(step.action, Answer) else None,
        parse_error=_text(step.action.reason) if isinstance(step.action, ParseFailure) else None,
        status=None if result is None else result.status,
        observation=None if result is None else _text(result.content),
        progress=None if progress is None else ProgressItem(before=progress.before, after=progress.after),
    )


def _call(call: ToolCall) -> CallItem:
    return CallItem(
        name=_text(call.name), arguments={_text(key): _plain(value, 1) for key, value in call.arguments.items()}
    )


def _plain(value: object, depth: int) -> JsonValue:
    """A value that JSON can carry: a model may write NaN, half a surrogate pair, or a thousand brackets."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return _text(value)
        case _ if depth == _MAX_DEPTH:
            return "…"
        case Mapping():
            entries = cast("Mapping[object, object]", value)
            return {_text(str(key)): _plain(item, depth + 1) for key, item in entries.items()}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in cast("Sequence[object]", value)]
        case _:
            raise TypeError(f"tool-call argument of type {type(value).__name__}; expected a JSON value")


def _text(text: str) -> str:
    """Text that UTF-8 can carry, within the contract's limit; a cut leaves a mark."""
    return cut(text.encode("utf-8", "replace").decode())


def _reward(trajectory: Trajectory, result: ItemResult, version: str) -> TrajectoryReward:
    if isinstance(result, ScoredItem):
        return result.trajectory_reward(version)
    if result.error.kind == "data":
        raise UnscorableTrajectory(trajectory.id, result.error.message)
    logger.warning("trajectory %s abstains, its scorer was lost: %s", trajectory.id, result.error.message)
    nothing = StepReward(None, {"success": None, "contribution": None, "solved": None})
    return TrajectoryReward(trajectory.id, (nothing,) * len(trajectory.steps), None, version)
