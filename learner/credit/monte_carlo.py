"""The value of a state as what continuations from it earn.

    V̂(s_t) = mean return of k continuations from s_t        Â_t = r_t + γ·V̂(s_{t+1}) − V̂(s_t)

(VinePPO, Kazemnejad et al. 2024, arXiv 2410.01679, with steps in place of reasoning steps.) Unbiased where the
continuations are the policy's own; the standard deviation of V̂ is that of a return, divided by √k. Where no
continuation from a state came to an end, nobody knows its value: the steps before and after it have no credit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from learner.credit.config import MonteCarloConfig
from learner.credit.estimate import Estimate, by_step, from_the_prompt
from learner.credit.kept import KeptSteps
from learner.credit.step_returns import monte_carlo_returns, step_returns

ReadContinuations = Callable[[Sequence[Trajectory], int], Sequence[Sequence[Sequence[float]]]]
"""Plays k continuations from the state before every step of each trajectory: the discounted return of each, in units of
reward, by trajectory, step and continuation. Those that infrastructure cut are left out."""


def return_from(scored: ScoredTrajectory, step: int, gamma: float) -> float | None:
    """Discounted rewards from `step` on, counted from 0, in units of reward.

    None where infrastructure cut the episode, or every one of these steps abstained.
    """
    known = (number for number in monte_carlo_returns(scored, gamma)[step:] if number is not None)
    return next(known, None)


def prefix_values(returns: Sequence[Sequence[float]]) -> list[float | None]:
    """V̂ of each state from the returns of its continuations; None of a state that has none."""
    return [math.fsum(numbers) / len(numbers) if numbers else None for numbers in returns]


def estimate(batch: Sequence[KeptSteps], config: MonteCarloConfig) -> list[Estimate]:
    """One advantage a step."""
    return [_of_one(one, config.gamma) for one in batch]


def _of_one(one: KeptSteps, gamma: float) -> Estimate:
    before = [next(iter(numbers), None) for numbers in one.values]
    after = [*before[1:], one.value_at_end] if before else []
    targets = [None if v is None else r + gamma * v for r, v in zip(one.rewards, after, strict=True)]
    advantages = [None if g is None or v is None else g - v for g, v in zip(targets, before, strict=True)]
    returns = step_returns(one.rewards, gamma, one.value_at_end)
    # A return through a step of unknown worth says nothing of the steps whose worth is known.
    return by_step(advantages, targets, {} if None in advantages else from_the_prompt(one, returns))
