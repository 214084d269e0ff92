"""The service without HTTP: answers a `ScoreRequest` by a recipe. Knows neither FastAPI nor Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from reward_service.config import SCORE_SECONDS
from reward_service.errors import RequestRefused, RewardVersionMismatch, ScorerUnavailable, UnscorableTrajectory
from reward_service.rewards import Component, StepReward, TrajectoryReward
from reward_service.scoring import Description
from reward_service.wire import (
    ComponentItem,
    ConversationItem,
    FailedItem,
    GroundTruthItem,
    ItemError,
    ItemResult,
    ModelCard,
    ScoredItem,
    ScoreOptions,
    ScoreRequest,
    ScoreResponse,
    StepItem,
    StepScore,
    TaskItem,
    TrajectoryItem,
)
from tool_sandbox.tasks import StopReason

_PROBE = TrajectoryItem(
    id="readiness",
    steps=(StepItem(index=0, answer="42"),),
    task=TaskItem(id="readiness", level="readiness", ground_truth=GroundTruthItem(answer="42")),
    stop=StopReason.ANSWERED,
)


class Scorer(Protocol):
    """Whatever turns one trajectory into rewards; `scoring.Recipe` is the one."""

    @property
    def version(self) -> str:
        """The reward version."""
        ...

    @property
    def by_rules(self) -> bool:
        """Whether `score` never waits for anything."""
        ...

    @property
    def description(self) -> Description:
        """What a caller may want to know."""
        ...

    async def score(self, item: TrajectoryItem) -> TrajectoryReward:
        """One reward for each step.

        Raises:
            UnscorableTrajectory: the trajectory lacks what the shaping needs.
            ScorerUnavailable: what the scorer depends on was lost.
        """
        ...


class RewardService:
    """A `RewardSource` in this process: results in order, and one bad trajectory never spoils the others."""

    def __init__(self, scorer: Scorer, score_seconds: float = SCORE_SECONDS) -> None:
        """`score_seconds`: deadline for the measurements of a request that names none itself."""
        self._scorer = scorer
        self._seconds = score_seconds

    @property
    def reward_version(self) -> str:
        """Of the scorer that the next request meets."""
        return self._scorer.version

    def use(self, scorer: Scorer) -> None:
        """Score by another recipe from the next request on; a request at work ends by the one that it began with."""
        self._scorer = scorer

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Score every trajectory.

        Raises:
            RewardVersionMismatch: the request insists on another version.
            RequestRefused: the request is strict, and a trajectory cannot be scored.
        """
        scorer = self._scorer
        if request.reward_version not in (None, scorer.version):
            raise RewardVersionMismatch(expected=request.reward_version, found=scorer.version)
        results = await self._results(request, scorer)
        if request.options.strict:
            _refuse_failures(results)
        return ScoreResponse(reward_version=scorer.version, results=tuple(results))

    async def check(self) -> None:
        """Score a known trajectory.

        Raises:
            ScorerUnavailable: the scorer cannot score now.
        """
        await self._scorer.score(_PROBE)

    def card(self) -> ModelCard:
        """What a caller may want to know of the scorer."""
        about = self._scorer.description
        return ModelCard(
            id=str(about.shaping["kind"]),
            reward_version=self.reward_version,
            shaping=about.shaping,
            measured_by=about.measured_by,
            signals=about.ranges,
        )

    async def _results(self, request: ScoreRequest, scorer: Scorer) -> list[ItemResult]:
        options = request.options
        seconds = self._seconds if options.deadline_ms is None else options.deadline_ms / 1000.0
        work = [_result(scorer, item, options, seconds) for item in request.trajectories]
        # Rules never wait, so tasks of their own would only cost.
        return [await one for one in work] if scorer.by_rules else await asyncio.gather(*work)


async def _result(
    scorer: Scorer, item: TrajectoryItem | ConversationItem, options: ScoreOptions, seconds: float
) -> ItemResult:
    try:
        plain = _plain(item)
        async with asyncio.timeout(seconds):
            reward = await scorer.score(plain)
        return scored_item(plain, reward, options)
    except UnscorableTrajectory as error:
        return _failed(item.id, "data", error)
    except ScorerUnavailable as error:
        return _failed(item.id, "infrastructure", error)
    except TimeoutError:
        late = ScorerUnavailable(f"trajectory {item.id!r}: not scored within {seconds:g} s")
        return _failed(item.id, "infrastructure", late)


def scored_item(item: TrajectoryItem, reward: TrajectoryReward, options: ScoreOptions) -> ScoredItem:
    """The contract's form of `reward`."""
    steps = zip(item.steps, reward.steps, strict=True)
    return ScoredItem(
        id=reward.trajectory_id,
        steps=tuple(_step_score(step, found, options) for step, found in steps),
        solved=reward.solved,
        total=sum(step.value for step in reward.steps if step.value is not None),
    )


def _step_score(step: StepItem, reward: StepReward, options: ScoreOptions) -> StepScore:
    return StepScore(
        index=step.index,
        tool_call_id=step.tool_call_id,
        reward=reward.value,
        signals=dict(reward.signals),
        components=tuple(map(_component, reward.components)),
        why=reward.why or _why(step, reward) if options.explain else None,
    )


def _component(part: Component) -> ComponentItem:
    return ComponentItem(name=part.name, raw=part.raw, weight=part.weight, value=part.value)


def _why(step: StepItem, reward: StepReward) -> str:
    """Which facts spoke, in a sentence; for the rules, which give no words of their own."""
    if reward.abstained:
        return "abstains: the call was lost, or nobody knows whether the task was solved"
    if step.answer is not None:
        return {1.0: "the answer is right", 0.0: "the answer is wrong"}.get(
            reward.signals.get("solved") or 0.0, "an answer"
        )
    ended = "could not be read as a call" if step.parse_error is not None else f"the call ended {step.status}"
    if step.progress is None:
        return ended
    return f"{ended}; calls still needed: {step.progress.before} before, {step.progress.after} after"


def _plain(item: TrajectoryItem | ConversationItem) -> TrajectoryItem:
    return item if isinstance(item, TrajectoryItem) else item.trajectory()


def _failed(trajectory_id: str, kind: str, error: Exception) -> FailedItem:
    return FailedItem(id=trajectory_id, error=ItemError.model_validate({"kind": kind, "message": str(error)}))


def _refuse_failures(results: Sequence[ItemResult]) -> None:
    failed = {result.id: result.error.message for result in results if isinstance(result, FailedItem)}
    if failed:
        raise RequestRefused(failed)
