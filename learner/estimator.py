"""From scored trajectories to credited ones, with whatever critic the configuration asks for.

Owns `CreditAssigner`: the pure estimators of `credit` plus the state that a critic keeps between batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from learner.config import CreditConfig, ProgressTableConfig, StepGaeConfig
from learner.credit import CreditedTrajectory, assign_credit
from learner.progress_table import ProgressTable

ReadValues = Callable[[Sequence[Trajectory]], Sequence[Sequence[float]]]


class CreditAssigner:
    """One estimator for one run."""

    def __init__(self, config: CreditConfig, read_values: ReadValues) -> None:
        """`read_values`: V(s_t) of every step from the policy's value head; called only where that is the critic."""
        self._config = config
        self._read_values = read_values
        self._table = _table(config)

    def assign(self, scored: Sequence[ScoredTrajectory]) -> list[CreditedTrajectory]:
        """Credit for one batch, in order; a table critic then learns from it."""
        credited = assign_credit(scored, self._values(scored), self._config)
        if self._table is not None:
            self._table.learn(scored)
        return credited

    def state(self) -> Mapping[str, Any]:
        """What must survive a restart, JSON-able; empty where nothing is kept."""
        return {} if self._table is None else self._table.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._table is not None:
            self._table.restore(state)

    def _values(self, scored: Sequence[ScoredTrajectory]) -> Sequence[Sequence[float]] | None:
        if not isinstance(self._config, StepGaeConfig):
            return None
        if self._table is not None:
            return self._table.values(scored)
        return self._read_values([one.trajectory for one in scored])


def _table(config: CreditConfig) -> ProgressTable | None:
    if isinstance(config, StepGaeConfig) and isinstance(config.critic, ProgressTableConfig):
        return ProgressTable(config.critic, config.gamma)
    return None
