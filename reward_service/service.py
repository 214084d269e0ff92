"""The service without HTTP: answers a `ScoreRequest` through a scorer. Knows neither FastAPI nor Ray."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from reward_service.config import Shaping
from reward_service.errors import RewardVersionMismatch, ScorerUnavailable, UnscorableTrajectory
from reward_service.rewards import TrajectoryReward
from reward_service.scoring import score
from reward_service.shaping import reward_version
from reward_service.wire import (
    FailedItem,
    GroundTruthItem,
    ItemError,
    ItemResult,
    ModelCard,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    StepItem,
    TaskItem,
    TrajectoryItem,
)
from tool_sandbox.tasks import StopReason

SIGNAL_RANGES = {"success": (0.0, 1.0), "contribution": (-1.0, 1.0), "solved": (0.0, 1.0)}

_PROBE = TrajectoryItem(
    id="readiness",
    steps=(StepItem(index=0, answer="42"),),
    task=TaskItem(id="readiness", level="readiness", ground_truth=GroundTruthItem(answer="42")),
    stop=StopReason.ANSWERED,
)


class Scorer(Protocol):
    """Whatever turns one trajectory into rewards."""

    @property
    def shaping(self) -> Shaping:
        """How signals become rewards; fixed for the scorer's life."""
        ...

    async def score(self, item: TrajectoryItem) -> TrajectoryReward:
        """One reward for each step.

        Raises:
            UnscorableTrajectory: the trajectory lacks what the shaping needs.
            ScorerUnavailable: what the scorer depends on was lost.
        """
        ...


@dataclass(frozen=True, slots=True)
class RuleScorer:
    """Scores by exact rules; depends on nothing that could be lost."""

    shaping: Shaping

    async def score(self, item: TrajectoryItem) -> TrajectoryReward:
        """One reward for each step; see `scoring.score`."""
        return score(item, self.shaping)


class RewardService:
    """A `RewardSource` in this process: results in order, and one bad trajectory never spoils the others."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.reward_version = reward_version(scorer.shaping)

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Score every trajectory.

        Raises:
            RewardVersionMismatch: the request insists on another version.
        """
        if request.reward_version not in (None, self.reward_version):
            raise RewardVersionMismatch(expected=request.reward_version, found=self.reward_version)
        results = await asyncio.gather(*(self._result(item) for item in request.trajectories))
        return ScoreResponse(reward_version=self.reward_version, results=tuple(results))

    async def check(self) -> None:
        """Score a known trajectory.

        Raises:
            ScorerUnavailable: the scorer cannot score now.
        """
        await self._scorer.score(_PROBE)

    def card(self) -> ModelCard:
        """What a caller may want to know of the scorer."""
        shaping = self._scorer.shaping
        return ModelCard(
            id=shaping.kind,
            reward_version=self.reward_version,
            shaping=shaping.model_dump(mode="json"),
            signals=SIGNAL_RANGES,
        )

    async def _result(self, item: TrajectoryItem) -> ItemResult:
        try:
            return ScoredItem.of(await self._scorer.score(item))
        except UnscorableTrajectory as error:
            return FailedItem(id=item.id, error=ItemError(kind="data", message=str(error)))
        except ScorerUnavailable as error:
            return FailedItem(id=item.id, error=ItemError(kind="infrastructure", message=str(error)))
