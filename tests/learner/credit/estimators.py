"""Every estimator with its own settings, and what each needs to give credit; shared by the tests of credit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.scoring import ScoredTrajectory
from learner.credit import CreditedTrajectory, StateAt, assign_credit
from learner.credit.assign import ESTIMATORS
from tests.learner.builders import scored

ALL: list[Any] = [config() for config in ESTIMATORS]
"""With their default settings."""
ON_STEPS: list[Any] = [
    config
    for config in ALL
    if config.kind not in ("ppo_outcome", "grpo", "rloo", "reinforce_pp", "rft", "eto", "tree", "leave_one_out")
]
"""Those that tell the steps of one trajectory apart by their rewards, whatever the others did."""


def kind(config: Any) -> str:
    """Name of a test."""
    return config.kind


def constant_values(scored: Sequence[ScoredTrajectory], config: Any, value: float = 0.25) -> list[list[float]] | None:
    """The same value at every state that the estimator reads; None where it reads none.

    Where actions are read too, each is worth its reward more than its state.
    """
    if config.states is None:
        return None
    if config.states is StateAt.UTTERANCES:
        return [[x for step in one.reward.steps for x in (value, value + (step.value or 0.0))] for one in scored]
    return [[value] * states(one, config) for one in scored]


def states(scored: ScoredTrajectory, config: Any) -> int:
    """How many values the estimator reads of a trajectory."""
    steps = scored.trajectory.steps
    if config.states is StateAt.TOKENS:
        return sum(len(step.action_ids) for step in steps)
    return len(steps) * (2 if config.states is StateAt.UTTERANCES else 1)


def numbers(one: CreditedTrajectory) -> list[float]:
    """Advantages of the steps that have one."""
    return [advantage for advantage in one.advantages if advantage is not None]


def credit(batch: list[Any], config: Any, value: float = 0.25) -> list[CreditedTrajectory]:
    """Credit by the same value at every state that the estimator reads."""
    return assign_credit(batch, constant_values(batch, config, value), config)


def solved_and_failed(steps: int = 2, **changes: Any) -> list[Any]:
    """One trajectory that solved its task and one that did not; only the last reward and what a replay says differ."""
    nothing = [0.0] * (steps - 1)
    good = scored([*nothing, 1.0], id="solved", contributions=[1.0] * steps, **changes)
    bad = scored([*nothing, 0.0], id="failed", solved=0.0, contributions=[-1.0] * steps, **changes)
    return [good, bad]
