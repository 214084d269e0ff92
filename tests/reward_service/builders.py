"""Small episodes for the reward tests, as the rules see them and as the contract spells them."""

from __future__ import annotations

import asyncio
from typing import Any

from reward_service.config import RewardConfig, Shaping
from reward_service.rewards import TrajectoryReward
from reward_service.scoring import Recipe
from reward_service.shaping import step_components
from reward_service.signals import Answered, Called, Episode, Turn, measure
from reward_service.wire import TrajectoryItem
from tool_sandbox.tasks import GroundTruth, StopReason
from tool_sandbox.tools import CallStatus, Progress

ANSWER = GroundTruth(answer="42", minimum_calls=2)


def call(before: int, after: int, status: CallStatus = CallStatus.OK) -> Called:
    return Called(status, Progress(before, after))


def episode(
    *turns: Turn, stop: StopReason = StopReason.ANSWERED, truth: GroundTruth = ANSWER, state: str | None = None
) -> Episode:
    return Episode(turns, truth, stop, state)


def recipe(shaping: Shaping) -> Recipe:
    return Recipe(RewardConfig(shaping=shaping))


def version_of(shaping: Shaping) -> str:
    return recipe(shaping).version


def score(item: TrajectoryItem, shaping: Shaping) -> TrajectoryReward:
    return asyncio.run(recipe(shaping).score(item))


def step_rewards(episode: Episode, shaping: Shaping) -> tuple[float | None, ...]:
    """r_1 … r_T with the default signals; None where a step abstains."""
    parts = step_components(episode, measure(episode), shaping)
    return tuple(None if found is None else sum(part.value for part in found) for found in parts)


RIGHT, WRONG = Answered("42"), Answered("41")


def call_step(index: int, before: int = 1, after: int = 0, status: str = "ok") -> dict[str, Any]:
    return {
        "index": index,
        "call": {"name": "price", "arguments": {"item": "lamp"}},
        "status": status,
        "observation": "42",
        "progress": {"before": before, "after": after},
    }


def trajectory(id: str = "t-1", **changes: Any) -> dict[str, Any]:
    """One useful call, then the right answer."""
    plain: dict[str, Any] = {
        "id": id,
        "steps": [call_step(0), {"index": 1, "answer": "42"}],
        "task": {"id": "ledger/L0/train/1", "level": "L0", "ground_truth": {"answer": "42", "minimum_calls": 1}},
        "stop": "answered",
    }
    return plain | changes


def item(id: str = "t-1", **changes: Any) -> TrajectoryItem:
    return TrajectoryItem.model_validate(trajectory(id, **changes))
