"""Credited trajectories of random tokens, for measurements of the learner.

Owns `EpisodeShape`, `filling_batch` and `forked_batch`. Pure; the same arguments give the same batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from learner.credit import CreditedTrajectory
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task


@dataclass(frozen=True, slots=True)
class EpisodeShape:
    """Tokens of the episodes that fill the rows."""

    prompt: int
    action: int
    observation: int
    steps: int
    group: int
    """Trajectories that share a prompt."""

    @property
    def distinct_tokens(self) -> int:
        """Of one group."""
        return self.prompt + self.group * (self.steps * self.action + (self.steps - 1) * self.observation)


def filling_batch(episodes: EpisodeShape, vocabulary: int, tokens: int) -> list[CreditedTrajectory]:
    """Whole groups of random tokens, as many as fit into `tokens` distinct ones, and one at the least."""
    dice = random.Random(0)
    groups = max(1, tokens // episodes.distinct_tokens)
    return [one for group in range(groups) for one in _group(episodes, vocabulary, str(group), dice)]


def _group(episodes: EpisodeShape, vocabulary: int, name: str, dice: random.Random) -> list[CreditedTrajectory]:
    def tokens(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(vocabulary) for _ in range(count))

    prompt = tokens(episodes.prompt)
    played: list[list[Step]] = []
    for _ in range(episodes.group):
        prompts = [prompt, *(tokens(episodes.observation) for _ in range(episodes.steps - 1))]
        played.append([_step(prompt_ids, tokens(episodes.action)) for prompt_ids in prompts])
    return _credited(name, played)


def forked_batch(episodes: EpisodeShape, vocabulary: int) -> list[CreditedTrajectory]:
    """One group whose trajectories fork in two at every step but the first, as forked sessions give them: all begin
    with the same call, halves with the same two. `episodes.group` is 2 ** (steps - 1).

    Raises:
        ValueError: the group has another size.
    """
    if episodes.group != 2 ** (episodes.steps - 1):
        raise ValueError(
            f"forked batch: a group of {episodes.group} with {episodes.steps} steps; expected "
            f"{2 ** (episodes.steps - 1)}, two ways to go on after every step"
        )
    dice = random.Random(0)

    def grow(past: list[Step], prompt: int) -> list[list[Step]]:
        prompt_ids, action_ids = ([dice.randrange(vocabulary) for _ in range(n)] for n in (prompt, episodes.action))
        path = [*past, _step(tuple(prompt_ids), tuple(action_ids))]
        if len(path) == episodes.steps:
            return [path]
        return [leaf for _ in range(2) for leaf in grow(path, episodes.observation)]

    return _credited("0", grow([], episodes.prompt))


def _credited(name: str, played: Sequence[Sequence[Step]]) -> list[CreditedTrajectory]:
    credited: list[CreditedTrajectory] = []
    for k, steps in enumerate(played):
        advantages = tuple(1.0 if k % 2 else -1.0 for _ in steps)
        credited.append(CreditedTrajectory(_scored(f"{name}/{k}", name, steps), advantages, advantages))
    return credited


def _step(prompt_ids: tuple[int, ...], action_ids: tuple[int, ...]) -> Step:
    count = len(action_ids)
    return Step(prompt_ids, action_ids, (-1.0,) * count, (VersionSpan(1, 0, count),), Answer(""), None, None)


def _scored(name: str, group: str, steps: Sequence[Step]) -> ScoredTrajectory:
    task = Task(group, "probe", "", (), GroundTruth("", minimum_calls=1), "", Split.TRAIN, {})
    trajectory = Trajectory(name, group, task, tuple(steps), StopReason.ANSWERED)
    rewards = tuple(StepReward(0.0, {}) for _ in steps)
    return ScoredTrajectory(trajectory, TrajectoryReward(name, rewards, 0.0, "probe"))
