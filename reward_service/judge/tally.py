"""From votes to a judgement: majority, mean, variance and caps. Pure.

A number needs a majority of the votes that were to be cast; without one the judge abstains, which is no zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_service.judge.config import Defence, JudgeConfig
from reward_service.judge.judgement import (
    HIGHEST_CONTRIBUTION,
    Flag,
    Judgement,
    Spread,
    StepJudgement,
    StepVerdict,
    Usage,
    Vote,
)
from reward_service.judge.questions import Asked, Fact, Standing, standings
from reward_service.signals import Episode, solved

_ABSTAINED = StepJudgement(None, None, None)


def tallied(episode: Episode, votes: Sequence[Vote], flags: Sequence[Flag], config: JudgeConfig) -> Judgement:
    """What `votes` come to. Each has one verdict, or None, for every turn of `episode`."""
    capped = Defence.CAP in config.defences
    majority = config.votes // 2 + 1
    steps = tuple(
        _step(kind, [vote.steps[i] for vote in votes], majority, capped)
        for i, kind in enumerate(standings(episode, flags))
    )
    outcome, reason = _outcome(votes, majority, solved(episode) if capped else None)
    usage = sum((vote.usage for vote in votes), Usage())
    cost = None if config.prices is None else usage.cost(config.prices)
    return Judgement(steps, outcome, reason, tuple(votes), tuple(flags), usage, cost)


def _step(kind: Standing, verdicts: Sequence[StepVerdict | None], majority: int, capped: bool) -> StepJudgement:
    if isinstance(kind, Fact):
        return StepJudgement(Spread.fact(0.0), Spread.fact(0.0), "nothing ran, or a text of it was withheld")
    there = [verdict for verdict in verdicts if verdict is not None]
    if not isinstance(kind, Asked) or len(there) < majority:
        return _ABSTAINED
    most = kind if capped else Asked(1.0, 1.0)
    success = Spread.of(min(float(verdict.success), most.success) for verdict in there)
    helped = [min(verdict.contribution / HIGHEST_CONTRIBUTION, most.contribution) for verdict in there]
    contribution = Spread.of(helped)
    return StepJudgement(success, contribution, there[_nearest(helped, contribution.mean)].reason)


def _outcome(votes: Sequence[Vote], majority: int, known: float | None) -> tuple[Spread | None, str | None]:
    """`known`: what the ground truth says; the judge may be stricter than it, and never kinder."""
    finals = [vote.final for vote in votes if vote.final is not None]
    if len(finals) < majority:
        return None, None
    scores = [min(final.outcome.score, 1.0 if known is None else known) for final in finals]
    spread = Spread.of(scores)
    return spread, finals[_nearest(scores, spread.mean)].reason


def _nearest(values: Sequence[float], mean: float) -> int:
    return min(range(len(values)), key=lambda position: abs(values[position] - mean))
