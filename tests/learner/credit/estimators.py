"""Every estimator with its own settings, and what each needs to give credit; shared by the tests of credit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.scoring import ScoredTrajectory
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.assign import ESTIMATORS, needs_values, states_of

ALL: list[Any] = [config() for config in ESTIMATORS]
"""With their default settings."""
ON_STEPS: list[Any] = [
    config
    for config in ALL
    if config.kind not in ("ppo_outcome", "grpo", "rloo", "reinforce_pp", "rft", "tree", "leave_one_out")
]
"""Those that tell the steps of one trajectory apart by their rewards, whatever the others did."""


def kind(config: Any) -> str:
    """Name of a test."""
    return config.kind


def constant_values(scored: Sequence[ScoredTrajectory], config: Any, value: float = 0.25) -> list[list[float]] | None:
    """The same value at every state that the estimator reads; None where it reads none."""
    if not needs_values(config):
        return None
    return [[value] * states(one, config) for one in scored]


def states(scored: ScoredTrajectory, config: Any) -> int:
    """How many values the estimator reads of a trajectory."""
    steps = scored.trajectory.steps
    return sum(len(step.action_ids) for step in steps) if states_of(config) is StateAt.TOKENS else len(steps)


def numbers(one: CreditedTrajectory) -> list[float]:
    """Advantages of the steps that have one."""
    return [advantage for advantage in one.advantages if advantage is not None]
