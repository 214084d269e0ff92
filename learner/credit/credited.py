"""What an estimator gives: one number for each step, or one for each action token.

Owns `CreditedTrajectory`, `TokenCredit` and `CreditSummary`. Pure values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from actors.scoring import ScoredTrajectory

Numbers = tuple[float, ...]
"""One step's numbers: a single one, or one for each of its action tokens."""
Credits = tuple[float | None, ...]
TokenCredits = tuple[Numbers | None, ...]


class StateAt(Enum):
    """Where a critic is read."""

    STEPS = "steps"
    """Once a step, at the last token before its action."""
    TOKENS = "tokens"
    """Before every action token; the first one of a step is where `STEPS` reads."""
    UTTERANCES = "utterances"
    """Twice a step: where `STEPS` reads, and at the last token of the action."""


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """The credit of each action token of a trajectory, step by step; None where the step has none."""

    advantages: TokenCredits
    returns: TokenCredits
    """Targets of the critic at the state before each token, in units of reward."""


@dataclass(frozen=True, slots=True)
class CreditedTrajectory:
    """A scored trajectory and one advantage and one return for each of its steps."""

    scored: ScoredTrajectory
    advantages: Credits
    """None where the step has no credit: it abstained, or its return is unknown. Where tokens have their own
    advantages, their mean."""
    returns: Credits
    """Target of the critic at the state before the step, in units of reward; None where there is none."""
    tokens: TokenCredit | None = None
    """None where all action tokens of a step share its advantage."""

    def __post_init__(self) -> None:
        steps = len(self.scored.trajectory.steps)
        if not len(self.advantages) == len(self.returns) == steps:
            raise ValueError(
                f"trajectory {self.scored.trajectory.id!r}: {len(self.advantages)} advantages and "
                f"{len(self.returns)} returns for {steps} steps; give one of each per step, None for no credit"
            )
        if self.tokens is not None:
            self._expect_tokens(self.tokens.advantages)
            self._expect_tokens(self.tokens.returns)
        for number in self._numbers():
            if not math.isfinite(number):
                raise ValueError(
                    f"trajectory {self.scored.trajectory.id!r}: credit {number}; expected finite numbers; "
                    "look at its rewards and at the critic"
                )

    def _numbers(self) -> Iterator[float]:
        yield from (number for number in (*self.advantages, *self.returns) if number is not None)
        if self.tokens is not None:
            yield from chain(*filter(None, (*self.tokens.advantages, *self.tokens.returns)))

    def _expect_tokens(self, credits: TokenCredits) -> None:
        expected = [len(step.action_ids) for step in self.scored.trajectory.steps]
        found = [None if numbers is None else len(numbers) for numbers in credits]
        if len(found) != len(expected) or any(n not in (None, m) for n, m in zip(found, expected, strict=True)):
            raise ValueError(
                f"trajectory {self.scored.trajectory.id!r}: credit for {found} action tokens of steps that have "
                f"{expected}; give one number per token, None for a step without credit"
            )


@dataclass(frozen=True, slots=True)
class CreditSummary:
    """What a batch's credit looks like; for metrics, and to tell a batch that cannot teach from one that can."""

    trajectories: int
    steps: int
    abstained: int
    """Steps without a reward."""
    uncredited: int
    """Steps with a reward and without credit: their return is unknown, or their group teaches nothing."""
    zero: int
    """Credited steps whose advantage is exactly zero."""
    groups: int
    uniform_groups: int
    """Groups in which no step has a non-zero advantage."""

    @property
    def is_uniform(self) -> bool:
        """Nothing can be learned from this batch: every group is uniform."""
        return self.uniform_groups == self.groups

    def metrics(self) -> dict[str, float]:
        """Numbers by the names that metrics use."""
        return {
            "credit_uncredited_steps": float(self.uncredited),
            "credit_zero_steps": float(self.zero),
            "credit_uniform_groups": float(self.uniform_groups),
        }


def summarise(credited: Sequence[CreditedTrajectory]) -> CreditSummary:
    """Count the steps and the groups with and without credit."""
    advantages = [advantage for one in credited for advantage in one.advantages]
    without = sum(advantage is None for advantage in advantages)
    abstained = sum(one.scored.abstained_steps for one in credited)
    return CreditSummary(
        trajectories=len(credited),
        steps=len(advantages),
        abstained=abstained,
        uncredited=without - abstained,
        zero=sum(_is_zero(one, step) for one in credited for step in range(len(one.advantages))),
        groups=len({one.scored.trajectory.group for one in credited}),
        uniform_groups=len(uniform_groups(credited)),
    )


def uniform_groups(credited: Sequence[CreditedTrajectory]) -> list[str]:
    """Groups in which no step has a non-zero advantage, in the order in which they first appear."""
    has_credit: dict[str, bool] = {}
    for one in credited:
        group = one.scored.trajectory.group
        has_credit[group] = has_credit.get(group, False) or teaches(one)
    return [group for group, taught in has_credit.items() if not taught]


def teaches(credited: CreditedTrajectory) -> bool:
    """Whether any of its tokens has a non-zero advantage."""
    if credited.tokens is not None:
        return any(number != 0.0 for number in chain(*filter(None, credited.tokens.advantages)))
    return any(advantage not in (None, 0.0) for advantage in credited.advantages)


def _is_zero(credited: CreditedTrajectory, step: int) -> bool:
    if credited.tokens is None:
        return credited.advantages[step] == 0.0
    numbers = credited.tokens.advantages[step]
    return numbers is not None and not any(numbers)
