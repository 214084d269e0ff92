"""One turn of the loop as values: what was gathered to train on, and the report of all of it.

Owns `Gathered` and `report_of`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.scoring import ScoredTrajectory
from cluster.checkpoint import RunState
from cluster.continuations import Continued
from cluster.metrics import IterationReport, count_solved, count_staleness, level_shares, mean_signals
from learner.credit import CreditedTrajectory


@dataclass(frozen=True, slots=True)
class Gathered:
    """What an iteration trains on, and what it took to get there."""

    scored: list[ScoredTrajectory]
    credited: list[CreditedTrajectory]
    draws: list[int]
    """How many tasks were drawn, each time."""
    shared_tokens: int
    """See `forking.Groups`."""
    continued: Continued


def report_of(
    state: RunState,
    sampled_from: int,
    batch: Gathered,
    learner: Mapping[str, float],
    seconds: Mapping[str, float],
    canary_gap: float,
) -> IterationReport:
    """What an iteration measured. `state` is the one after it, `sampled_from` the policy version before the update."""
    scored, continued = batch.scored, batch.continued
    rewards = [reward.value for one in scored for reward in one.reward.steps]
    known = [value for value in rewards if value is not None]
    verdicts = [one.reward.solved for one in scored if one.reward.solved is not None]
    levels = count_solved(scored)
    action_tokens = sum(len(step.action_ids) for one in scored for step in one.trajectory.steps)
    return IterationReport(
        iteration=state.iteration,
        version=state.version,
        solved_rate=sum(verdicts) / max(len(verdicts), 1),
        step_reward=sum(known) / max(len(known), 1),
        signals=mean_signals(scored),
        steps=len(rewards) / len(scored),
        trajectories=len(scored),
        abstained_steps=len(rewards) - len(known),
        action_tokens=action_tokens,
        sampled_tokens=action_tokens - batch.shared_tokens + continued.action_tokens,
        continuation_tokens=continued.action_tokens,
        continuation_episodes=continued.episodes,
        continuations_lost=continued.lost,
        staleness=count_staleness(scored, sampled_from),
        learner=learner,
        level_solved={level: solved / judged for level, (solved, judged) in levels.items() if judged},
        level_share=level_shares(scored),
        seconds=dict(seconds),
        canary_gap=canary_gap,
    )
