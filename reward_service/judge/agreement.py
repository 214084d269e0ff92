"""How far the votes of a judge agree, over many trajectories, and what they took.

Owns `Agreement`. Consumes judgements; produces counts and means. Grades are compared as the model gave them, on the
rubric's own scale: two votes agree on a step where both grades are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_service.judge.judgement import Judgement, Spread, Usage, Vote
from reward_service.judge.questions import Question

_SEVERAL = 2
"""Fewer votes than that neither agree nor differ."""


@dataclass(slots=True)
class _Mean:
    """A mean that grows."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Agreement:
    """What the votes on some trajectories say of the judge. Mutable: it grows by the judgement."""

    trajectories: int = 0
    votes: int = 0
    lost_votes: int = 0
    """Votes of which an answer was lost."""
    withheld_texts: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    """None where the endpoint has no price."""
    _steps: _Mean = field(default_factory=_Mean)
    _outcomes: _Mean = field(default_factory=_Mean)
    _variances: dict[str, _Mean] = field(
        default_factory=lambda: {name: _Mean() for name in ("success", "contribution", "solved")}
    )

    def add(self, asked: Sequence[Question], judgement: Judgement) -> None:
        """Count one judgement; `asked`: the questions of each of its votes."""
        self.trajectories += 1
        self.votes += len(judgement.votes)
        self.lost_votes += sum(is_lost(vote, asked) for vote in judgement.votes)
        self.withheld_texts += len(judgement.flags)
        self.usage += judgement.usage
        if judgement.cost is not None:
            self.cost = (self.cost or 0.0) + judgement.cost
        self._compare(judgement)

    def as_dict(self) -> dict[str, Any]:
        """Counts, shares and means by name; None where nothing was there to compare."""
        return {
            "trajectories": self.trajectories,
            "votes": self.votes,
            "lost_votes": self.lost_votes,
            "step_agreement": self._steps.value,
            "outcome_agreement": self._outcomes.value,
            "mean_variance": {name: mean.value for name, mean in self._variances.items()},
            "withheld_texts": self.withheld_texts,
            "requests": self.usage.requests,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "uncounted_requests": self.usage.unreported,
            "cost": self.cost,
        }

    def _compare(self, judgement: Judgement) -> None:
        for verdicts in zip(*(vote.steps for vote in judgement.votes), strict=True):
            self._steps.add(_unanimous([(one.success, one.contribution) for one in verdicts if one is not None]))
        self._outcomes.add(_unanimous([vote.final.outcome for vote in judgement.votes if vote.final is not None]))
        for name, mean in self._variances.items():
            mean.add(spread.variance for spread in _spreads(name, judgement) if spread and spread.votes >= _SEVERAL)


def _unanimous(grades: Sequence[object]) -> Iterable[float]:
    """1 where all are equal, else 0; nothing where there are too few to compare."""
    return [float(len(set(grades)) == 1)] if len(grades) >= _SEVERAL else []


def _spreads(name: str, judgement: Judgement) -> Sequence[Spread | None]:
    if name == "solved":
        return [judgement.solved]
    return [getattr(step, name) for step in judgement.steps]


def is_lost(vote: Vote, asked: Sequence[Question]) -> bool:
    """Whether an answer to one of the questions of `vote` was lost."""
    return any((one.final and vote.final is None) or any(vote.steps[i] is None for i in one.steps) for one in asked)
