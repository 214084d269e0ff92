"""The value of a state as what continuations from it earn.

    V̂(s_t) = mean return of k continuations from s_t        Â_t = r_t + γ·V̂(s_{t+1}) − V̂(s_t)

(VinePPO, Kazemnejad et al. 2024, arXiv 2410.01679, with steps in place of reasoning steps.) Unbiased where the
continuations are the policy's own; the standard deviation of V̂ is that of a return, divided by √k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from actors.trajectory import Trajectory
from learner.credit.config import MonteCarloConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.step_gae import of_one

ReadContinuations = Callable[[Sequence[Trajectory], int], Sequence[Sequence[Sequence[float]]]]
"""Plays k continuations from the state before every step of each trajectory: the discounted return of each, in units of
reward, by trajectory, step and continuation."""


def prefix_values(returns: Sequence[Sequence[float]]) -> list[float]:
    """V̂ of each state from the returns of its continuations.

    Raises:
        ValueError: a state has none.
    """
    if not all(returns):
        raise ValueError(f"monte_carlo: {list(map(len, returns))} continuations a state; expected at least one of each")
    return [math.fsum(numbers) / len(numbers) for numbers in returns]


def estimate(batch: Sequence[KeptSteps], config: MonteCarloConfig) -> list[Estimate]:
    """One advantage a step; V̂ stands in the place of a critic's readings."""
    return [of_one(one, config.gamma, 0.0) for one in batch]
