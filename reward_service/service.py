"""The service without HTTP: answers a `ScoreRequest` by a recipe. Knows neither FastAPI nor Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from reward_service.config import SCORE_SECONDS
from reward_service.errors import RequestRefused, RewardVersionMismatch, ScorerUnavailable, UnscorableTrajectory
from reward_service.finding import ComputedRewards, FindsRewards, Found, Scorer
from reward_service.model_card import ModelCard
from reward_service.rewards import Component, StepReward, TrajectoryReward
from reward_service.wire import (
    ComponentItem,
    ConversationItem,
    FailedItem,
    ItemError,
    ItemResult,
    MalformedItem,
    ScoredItem,
    ScoreOptions,
    ScoreRequest,
    ScoreResponse,
    StepItem,
    StepScore,
    TaskItem,
    TrajectoryItem,
    VotesItem,
)
from tool_sandbox.tasks import StopReason

_ANSWERS: Mapping[float | None, str] = {1.0: "the answer is right", 0.0: "the answer is wrong"}
PROBE = TrajectoryItem(
    id="readiness",
    steps=(StepItem(index=0, parse_error="a probe"),),
    task=TaskItem(id="readiness", level="readiness"),
    stop=StopReason.INFRASTRUCTURE,
)
"""Nothing in it has to be asked of a judge: probes come every few seconds, and votes cost."""


class RewardService:
    """A `RewardSource` in this process: results in order, and one bad trajectory never spoils the others."""

    def __init__(
        self, scorer: Scorer, score_seconds: float = SCORE_SECONDS, rewards: FindsRewards | None = None
    ) -> None:
        """`score_seconds`: deadline for the measurements of a request that names none itself.

        `rewards` keeps what was scored; None computes every time.
        """
        self._scorer = scorer
        self._seconds = score_seconds
        self._rewards = rewards or ComputedRewards()

    @property
    def reward_version(self) -> str:
        """Of the scorer that the next request meets."""
        return self._scorer.version

    @property
    def by_rules(self) -> bool:
        """Whether the scorer asks nobody."""
        return self._scorer.by_rules

    def use(self, scorer: Scorer) -> None:
        """Score by another recipe from the next request on; a request at work ends by the one that it began with."""
        self._scorer = scorer

    async def score(self, request: ScoreRequest, longest_seconds: float = math.inf) -> ScoreResponse:
        """Score every trajectory, in no more than `longest_seconds` whatever deadline the request has.

        Raises:
            RewardVersionMismatch: the request insists on another version.
            RequestRefused: the request is strict, and a trajectory cannot be scored.
        """
        scorer = self._scorer
        if request.reward_version not in (None, scorer.version):
            raise RewardVersionMismatch(expected=request.reward_version, found=scorer.version)
        results = await self._results(scorer, request, longest_seconds)
        if request.options.strict:
            _refuse_failures(results)
        return ScoreResponse(reward_version=scorer.version, results=tuple(results))

    async def _results(self, scorer: Scorer, request: ScoreRequest, longest_seconds: float) -> list[ItemResult]:
        options = request.options
        asked = self._seconds if options.deadline_ms is None else options.deadline_ms / 1000.0
        seconds = min(asked, longest_seconds)
        read = [_read(item) for item in request.trajectories]
        plain = [item for item in read if isinstance(item, TrajectoryItem)]
        found = dict(zip((item.id for item in plain), await self._rewards.find(scorer, plain, seconds), strict=True))
        return [item if isinstance(item, FailedItem) else _told(item, found[item.id], options) for item in read]

    async def check(self, plug_in_seconds: float | None = None) -> None:
        """Score a known trajectory, for which each plug-in has `plug_in_seconds`; None sets no limit.

        Raises:
            ScorerUnavailable: the scorer cannot score now.
        """
        await self._scorer.score(PROBE, plug_in_seconds)

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


def may_fare_better(response: ScoreResponse) -> bool:
    """Whether the same request may get more later: a scorer was lost."""
    return any(isinstance(one, FailedItem) and one.error.kind == "infrastructure" for one in response.results)


def _told(item: TrajectoryItem, found: Found, options: ScoreOptions) -> ItemResult:
    match found:
        case TrajectoryReward():
            return scored_item(item, found, options)
        case UnscorableTrajectory():
            return _failed(item.id, "data", found)
        case ScorerUnavailable():
            return _failed(item.id, "infrastructure", found)


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
        votes={name: VotesItem(count=one.count, variance=one.variance) for name, one in reward.votes.items()},
    )


def _component(part: Component) -> ComponentItem:
    return ComponentItem(name=part.name, raw=part.raw, weight=part.weight, value=part.value)


def _why(step: StepItem, reward: StepReward) -> str:
    """Which facts spoke, in a sentence; for the rules, which give no words of their own."""
    if reward.abstained:
        return "abstains: the call was lost, or nobody knows whether the task was solved"
    if step.answer is not None:
        return _ANSWERS.get(reward.signals.get("solved"), "an answer")
    ended = "could not be read as a call" if step.parse_error is not None else f"the call ended {step.status}"
    if step.progress is None:
        return ended
    return f"{ended}; calls still needed: {step.progress.before} before, {step.progress.after} after"


def _read(item: TrajectoryItem | ConversationItem | MalformedItem) -> TrajectoryItem | FailedItem:
    if isinstance(item, TrajectoryItem):
        return item
    if isinstance(item, MalformedItem):
        return FailedItem(id=item.id, error=ItemError(kind="data", message=item.malformed, pointer=item.pointer))
    try:
        return item.trajectory()
    except UnscorableTrajectory as error:
        return _failed(item.id, "data", error)


def _failed(trajectory_id: str, kind: str, error: Exception) -> FailedItem:
    return FailedItem(id=trajectory_id, error=ItemError.model_validate({"kind": kind, "message": str(error)}))


def _refuse_failures(results: Sequence[ItemResult]) -> None:
    failed = {result.id: result.error.message for result in results if isinstance(result, FailedItem)}
    if failed:
        raise RequestRefused(failed)
