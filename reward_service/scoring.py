"""Score one trajectory: measure its signals, shape them, add up. Owns `Recipe`: all that decides the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from reward_service.config import RewardConfig, Shaping
from reward_service.errors import UnscorableTrajectory
from reward_service.measuring import JudgeOfSteps, Measured, Measurer, ModelOfSteps
from reward_service.rewards import Component, StepReward, TrajectoryReward, Votes
from reward_service.shaping import MissingSignal, recipe_version, step_components
from reward_service.signals import Episode, Signals
from reward_service.wire import TrajectoryItem
from tool_sandbox.tasks import StopReason


@dataclass(frozen=True, slots=True)
class Description:
    """A recipe, told."""

    shaping: dict[str, JsonValue]
    measured_by: dict[str, JsonValue]
    ranges: dict[str, tuple[float, float]]
    """Smallest and largest value of each signal."""


class Recipe:
    """How one configuration turns a trajectory into rewards."""

    def __init__(
        self, config: RewardConfig, judge: JudgeOfSteps | None = None, step_model: ModelOfSteps | None = None
    ) -> None:
        """Load what the configuration names; `judge` and `step_model` are asked where it wants them.

        Raises:
            SignalNotFound: a signal of somebody else is not installed.
            StepModelUnusable: the step model lacks an output that a signal wants.
        """
        self._shaping: Shaping = config.shaping
        self._measurer = Measurer(config, judge, step_model)

    @property
    def version(self) -> str:
        """The reward version: equal for equal numbers, whatever process asks.

        Raises:
            StepModelUnusable: no step model is connected, and its files are not here either.
        """
        return self._version

    @cached_property
    def _version(self) -> str:
        about = self.description
        return recipe_version({"shaping": about.shaping, **about.measured_by})

    @property
    def by_rules(self) -> bool:
        return self._measurer.by_rules

    @property
    def description(self) -> Description:
        shaping = self._shaping.model_dump(mode="json")
        return Description(shaping, self._measurer.fingerprint, self._measurer.ranges)

    async def score(self, item: TrajectoryItem, plug_in_seconds: float | None = None) -> TrajectoryReward:
        """One reward for each step of `item`, in order; a plug-in that takes longer than it may is lost.

        Raises:
            UnscorableTrajectory: the shaping needs a signal that the trajectory cannot give.
            ScorerUnavailable: a signal lost what it depends on.
        """
        episode = _episode(item)
        if self._measurer.by_rules:
            return self._shaped(item, episode, await self._measurer.ruled(item, episode))
        return self._shaped(item, episode, await self._measurer.measure(item, episode, plug_in_seconds))

    def _shaped(self, item: TrajectoryItem, episode: Episode, found: Measured) -> TrajectoryReward:
        signals = found.signals
        try:
            parts = step_components(episode, signals, self._shaping)
        except MissingSignal as error:
            raise UnscorableTrajectory(item.id, str(error)) from error
        steps = (_step(*one) for one in zip(parts, signals, found.why, found.votes, strict=True))
        # An episode that ended before its first step has no signals, and all the same an outcome.
        outcome = signals[-1].solved if signals else self._measurer.outcome(episode)
        return TrajectoryReward(item.id, tuple(steps), outcome, self.version)


def _step(
    parts: tuple[Component, ...] | None, signals: Signals, why: str | None, votes: Mapping[str, Votes]
) -> StepReward:
    if parts is None:
        return StepReward(None, signals.by_name(), why=why, votes=votes)
    return StepReward(sum((part.value for part in parts), 0.0), signals.by_name(), parts, why, votes)


def _episode(item: TrajectoryItem) -> Episode:
    episode = item.episode()
    if _state_is_missing(episode):
        raise UnscorableTrajectory(item.id, "the target is a state, but final_state_hash is null; send the hash")
    return episode


def _state_is_missing(episode: Episode) -> bool:
    if episode.checked is not None:
        return False
    needed = episode.ground_truth.state_hash is not None and episode.stop is not StopReason.INFRASTRUCTURE
    return needed and episode.state_hash is None
