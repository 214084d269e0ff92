"""A critic that knows the ground truth: V(s) looked up by how far s is from the solution.

Owns `ProgressTable`. The critic may see what the policy may not (asymmetric actor-critic, Pinto et al. 2017): it only
shapes the variance of the gradient. It costs no forward pass. Produces the values that step-level GAE consumes.

A cell is (calls still needed before the step, steps taken so far); its value is the mean of the discounted returns
seen there, shrunk towards the mean over all steps with as many calls still needed, and that towards the mean over
everything. A trajectory's values leave out all returns of that trajectory: its own luck must not lower its own
advantage. What is left is earlier batches, decayed, and the other trajectories of the current one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from learner.credit.config import ProgressTableConfig
from learner.credit.step_returns import monte_carlo_returns

Cell = tuple[int | None, int | None]
"""(calls still needed, steps taken); None stands for "any" in a coarser cell, -1 for an unknown distance."""

_EVERYTHING: Cell = (None, None)
_UNKNOWN = -1


def calls_needed(trajectory: Trajectory) -> list[int]:
    """Exact number of calls still needed before each step; -1 where the task has no exact distance.

    A step without progress, such as the answer, stands where the step before it ended.
    """
    here = trajectory.task.ground_truth.minimum_calls
    needed: list[int] = []
    for step in trajectory.steps:
        before = step.progress.before if step.progress is not None else here
        needed.append(_UNKNOWN if before is None else before)
        here = step.progress.after if step.progress is not None else here
    return needed


class ProgressTable:
    """Mean discounted return by progress. Mutable; `learn` is the only way in."""

    def __init__(self, config: ProgressTableConfig, gamma: float) -> None:
        self._config = config
        self._gamma = gamma
        self._sums: dict[Cell, tuple[float, float]] = {}
        """(sum of returns, weight of visits) of earlier batches, decayed."""

    def values(self, scored: Sequence[ScoredTrajectory]) -> list[tuple[float, ...]]:
        """V(s_t) for every step of each trajectory, abstained ones included; leave-one-out over trajectories."""
        own = [self._visits([one]) for one in scored]
        total = _add(self._sums, self._visits(scored), 1.0)
        return [self._values_of(one, _add(total, visits, -1.0)) for one, visits in zip(scored, own, strict=True)]

    def learn(self, scored: Sequence[ScoredTrajectory]) -> None:
        """Fold a batch into the history; call it once per batch, after `values`."""
        decay = self._config.decay
        faded = {cell: (total * decay, weight * decay) for cell, (total, weight) in self._sums.items()}
        self._sums = _add(faded, self._visits(scored), 1.0)

    def state(self) -> dict[str, Any]:
        """JSON-able state for a checkpoint."""
        return {"cells": [[needed, taken, *sums] for (needed, taken), sums in sorted(self._sums.items(), key=repr)]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._sums = {(needed, taken): (total, weight) for needed, taken, total, weight in state["cells"]}

    def _values_of(self, scored: ScoredTrajectory, sums: Mapping[Cell, tuple[float, float]]) -> tuple[float, ...]:
        return tuple(self._value(cell, sums) for cell in self._cells(scored.trajectory))

    def _value(self, cell: Cell, sums: Mapping[Cell, tuple[float, float]]) -> float:
        """Shrink from coarse to fine: V = (Σ returns + k·V_coarser) / (visits + k)."""
        value, prior = 0.0, 0.0
        for level in (_EVERYTHING, (cell[0], None), cell):
            total, weight = sums.get(level, (0.0, 0.0))
            if weight + prior > 0.0:
                value = (total + prior * value) / (weight + prior)
                prior = self._config.prior_visits
        return value

    def _visits(self, scored: Sequence[ScoredTrajectory]) -> dict[Cell, tuple[float, float]]:
        visits: dict[Cell, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for one in scored:
            returns = monte_carlo_returns(one, self._gamma)
            for cell, number in zip(self._cells(one.trajectory), returns, strict=True):
                if number is None:
                    continue
                for level in (_EVERYTHING, (cell[0], None), cell):
                    total, weight = visits[level]
                    visits[level] = (total + number, weight + 1.0)
        return dict(visits)

    def _cells(self, trajectory: Trajectory) -> Iterator[Cell]:
        for taken, needed in enumerate(calls_needed(trajectory)):
            yield needed, min(taken, self._config.max_steps_taken)


def _add(
    left: Mapping[Cell, tuple[float, float]], right: Mapping[Cell, tuple[float, float]], sign: float
) -> dict[Cell, tuple[float, float]]:
    summed = dict(left)
    for cell, (total, weight) in right.items():
        old_total, old_weight = summed.get(cell, (0.0, 0.0))
        kept = old_weight + sign * weight
        # A cell emptied by subtraction must not keep a rounding residue as its mean.
        summed[cell] = (old_total + sign * total, kept) if kept > 1e-6 else (0.0, 0.0)
    return summed
