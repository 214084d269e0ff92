"""Score one trajectory: measure its signals, shape them, add up. Owns `Recipe`, which is all that decides the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from reward_service.config import RewardConfig, Shaping
from reward_service.errors import UnscorableTrajectory
from reward_service.measuring import Measurer
from reward_service.rewards import Component, StepReward, TrajectoryReward
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

    def __init__(self, config: RewardConfig) -> None:
        """Load what the configuration names.

        Raises:
            SignalNotFound: a signal of somebody else is not installed.
        """
        self._shaping: Shaping = config.shaping
        self._measurer = Measurer(config.signals)

    @cached_property
    def version(self) -> str:
        """The reward version: equal for equal numbers, whatever process asks."""
        about = self.description
        return recipe_version({"shaping": about.shaping, **about.measured_by})

    @property
    def by_rules(self) -> bool:
        return self._measurer.by_rules

    @property
    def description(self) -> Description:
        shaping = self._shaping.model_dump(mode="json")
        return Description(shaping, self._measurer.fingerprint, self._measurer.ranges)

    async def score(self, item: TrajectoryItem) -> TrajectoryReward:
        """One reward for each step of `item`, in order.

        Raises:
            UnscorableTrajectory: the shaping needs a signal that the trajectory cannot give.
            ScorerUnavailable: a signal lost what it depends on.
        """
        episode = _episode(item)
        measurer = self._measurer
        signals = measurer.measured(item, episode) if measurer.by_rules else await measurer.measure(item, episode)
        return self._shaped(item, episode, signals)

    def _shaped(self, item: TrajectoryItem, episode: Episode, signals: Sequence[Signals]) -> TrajectoryReward:
        try:
            parts = step_components(episode, signals, self._shaping)
        except MissingSignal as error:
            raise UnscorableTrajectory(item.id, str(error)) from error
        steps = (_step(one, found) for one, found in zip(parts, signals, strict=True))
        return TrajectoryReward(item.id, tuple(steps), signals[-1].solved if signals else None, self.version)


def _step(parts: tuple[Component, ...] | None, signals: Signals) -> StepReward:
    if parts is None:
        return StepReward(None, signals.by_name())
    return StepReward(sum((part.value for part in parts), 0.0), signals.by_name(), parts)


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
