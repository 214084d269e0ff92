"""From scored trajectories to credited ones, with whatever critic the configuration asks for.

Owns `CreditAssigner`: the pure estimators of `credit` plus the state that a critic keeps between batches, and where the
values of states come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from learner.credit import CreditedTrajectory, StateAt, assign_credit
from learner.credit.config import ArcherConfig, CreditConfig, MonteCarloConfig, ProgressTableConfig, StepGaeConfig
from learner.credit.kept import Readings
from learner.credit.monte_carlo import ReadContinuations, prefix_values
from learner.progress_table import ProgressTable
from learner.utterance_critic import UtteranceCritic
from learner.utterance_features import ReadFeatures


class ReadValues(Protocol):
    """Asks the policy's value head."""

    def __call__(self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS, /) -> Sequence[Sequence[float]]:
        """V of every state of each trajectory, in order, in units of reward."""
        ...


class CreditAssigner:
    """One estimator for one run."""

    def __init__(
        self,
        config: CreditConfig,
        read_values: ReadValues,
        read_continuations: ReadContinuations | None = None,
        read_features: ReadFeatures | None = None,
    ) -> None:
        """Readers are called only where the estimator needs them.

        Raises:
            ValueError: the estimator needs continuations or features, and there is nobody who gives them.
        """
        if isinstance(config, MonteCarloConfig) and read_continuations is None:
            raise ValueError(
                "monte_carlo: nobody plays continuations here; expected a reader of them; give one to "
                "CreditAssigner, or choose another credit.kind"
            )
        if isinstance(config, ArcherConfig) and read_features is None:
            raise ValueError(
                "archer: nobody reads the policy's hidden states here; expected a reader of them; give one to "
                "CreditAssigner, or choose another credit.kind"
            )
        self._config = config
        self._read_values = read_values
        self._read_continuations = read_continuations
        self._read_features = read_features
        self._table = _table(config)
        self._critic = UtteranceCritic(config.critic, config.gamma) if isinstance(config, ArcherConfig) else None

    def assign(self, scored: Sequence[ScoredTrajectory]) -> list[CreditedTrajectory]:
        """Credit for one batch, in order. A table critic learns from it afterwards, an utterance critic before."""
        credited = assign_credit(scored, self._values(scored), self._config)
        if self._table is not None:
            self._table.learn(scored)
        return credited

    def metrics(self) -> dict[str, float]:
        """What a critic of its own measured on the newest batch, by the names that metrics use."""
        return {} if self._critic is None else self._critic.metrics()

    def state(self) -> Mapping[str, Any]:
        """What must survive a restart, JSON-able; empty where nothing is kept."""
        kept = self._table or self._critic
        return {} if kept is None else kept.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        kept = self._table or self._critic
        if kept is not None:
            kept.restore(state)

    def _values(self, scored: Sequence[ScoredTrajectory]) -> Readings | None:
        if self._config.states is None:
            return None
        if self._table is not None:
            return self._table.values(scored)
        trajectories = [one.trajectory for one in scored]
        if self._critic is not None and self._read_features is not None:
            features = self._read_features(trajectories)
            self._critic.learn(scored, features)
            return self._critic.values(features)
        if self._read_continuations is not None and isinstance(self._config, MonteCarloConfig):
            returns = self._read_continuations(trajectories, self._config.continuations)
            return [prefix_values(one) for one in returns]
        if self._config.states is StateAt.STEPS:
            return self._read_values(trajectories)
        return self._read_values(trajectories, StateAt.TOKENS)


def _table(config: CreditConfig) -> ProgressTable | None:
    if isinstance(config, StepGaeConfig) and isinstance(config.critic, ProgressTableConfig):
        return ProgressTable(config.critic, config.gamma)
    return None
