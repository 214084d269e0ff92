"""Score one trajectory. Pure: the service and the tests call the same function."""

from __future__ import annotations

from dataclasses import asdict

from reward_service.config import Shaping
from reward_service.errors import UnscorableTrajectory
from reward_service.rewards import StepReward, TrajectoryReward
from reward_service.shaping import MissingSignal, reward_version, step_rewards
from reward_service.signals import Episode, measure, solved
from reward_service.wire import TrajectoryItem
from tool_sandbox.tasks import StopReason


def score(item: TrajectoryItem, shaping: Shaping) -> TrajectoryReward:
    """One reward for each step of `item`, in order.

    Raises:
        UnscorableTrajectory: the shaping needs a signal that the trajectory cannot give.
    """
    episode = item.episode()
    if _state_is_missing(episode):
        raise UnscorableTrajectory(item.id, "the target is a state, but final_state_hash is null; send the hash")
    try:
        rewards = step_rewards(episode, shaping)
    except MissingSignal as error:
        raise UnscorableTrajectory(item.id, str(error)) from error
    steps = (StepReward(value, asdict(signals)) for value, signals in zip(rewards, measure(episode), strict=True))
    return TrajectoryReward(item.id, tuple(steps), solved(episode), reward_version(shaping))


def _state_is_missing(episode: Episode) -> bool:
    if episode.checked is not None:
        return False
    needed = episode.ground_truth.state_hash is not None and episode.stop is not StopReason.INFRASTRUCTURE
    return needed and episode.state_hash is None
