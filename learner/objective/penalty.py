"""KL to the reference as part of the step reward. Owns `sum_by_step`, `penalise` and when it is done. Pure.

r_t ← r_t − β·Σ_i k(log π_behaviour, log π_reference) over the action tokens of step t (Ouyang et al. 2022, eq. 2, here
by step).
The engine's log-probabilities are those of the policy that sampled the tokens, so the estimate is unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from learner.objective.config import KlConfig, NoKl
from reward_service.rewards import Component, StepReward

ReadPenalties = Callable[[Sequence[Trajectory]], Sequence[Sequence[float]]]
"""β·KL of every step of each trajectory, in units of reward."""


def sum_by_step(trajectory: Trajectory, per_token: Sequence[float]) -> tuple[float, ...]:
    """Sums over the action tokens of each step; `per_token` holds one number for each action token."""
    expected = sum(len(step.action_ids) for step in trajectory.steps)
    if len(per_token) != expected:
        raise ValueError(
            f"trajectory {trajectory.id!r}: {len(per_token)} numbers for {expected} action tokens; give one for each"
        )
    queue = iter(per_token)
    return tuple(math.fsum(next(queue) for _ in step.action_ids) for step in trajectory.steps)


def penalise(scored: Sequence[ScoredTrajectory], penalties: Sequence[Sequence[float]]) -> list[ScoredTrajectory]:
    """The same trajectories with each penalty taken off its step reward, in units of reward.

    An abstained step still abstains. Whether the task was solved is a fact that no penalty changes.
    """
    return [_penalised(one, costs) for one, costs in zip(scored, penalties, strict=True)]


def as_credit_sees(
    scored: Sequence[ScoredTrajectory], kl: KlConfig, read_penalties: ReadPenalties
) -> Sequence[ScoredTrajectory]:
    """The trajectories as they are, unless the KL is placed in the reward; only then are penalties read."""
    if isinstance(kl, NoKl) or kl.place != "reward":
        return scored
    return penalise(scored, read_penalties([one.trajectory for one in scored]))


def _penalised(scored: ScoredTrajectory, costs: Sequence[float]) -> ScoredTrajectory:
    steps = tuple(_charged(reward, cost) for reward, cost in zip(scored.reward.steps, costs, strict=True))
    return replace(scored, reward=replace(scored.reward, steps=steps))


def _charged(reward: StepReward, cost: float) -> StepReward:
    if reward.value is None:
        return reward
    # Components say what the value is the sum of; where the scorer gave none, one alone would say less than nothing.
    extra = (Component("reference_kl", cost, -1.0),) if reward.components else ()
    return replace(reward, value=reward.value - cost, components=(*reward.components, *extra))
