"""Discounted step returns, without a critic.

    G_t = r_t + γ·G_{t+1}        Â_t = (G_t − mean) / std over the group's steps of index t

(Sutton & Barto 2018, eq. 3.9; normalised as GTPO does, arXiv 2511.14846.) The normalisation is the setting `whiten`.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.scoring import ScoredTrajectory
from learner.credit.config import StepReturnsConfig
from learner.credit.credited import Credits
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps, keep


def step_returns(rewards: Sequence[float], gamma: float, after: float = 0.0) -> list[float]:
    """G_t from [n] rewards; [n], in units of reward. `after` is G after the last step, 0 where the episode ended."""
    returns: list[float] = []
    following = after
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]


def monte_carlo_returns(scored: ScoredTrajectory, gamma: float) -> Credits:
    """G_t of every step; None where the step abstained, and everywhere where infrastructure cut the episode short."""
    kept = keep(scored)
    if kept.was_cut:
        return kept.spread([None] * len(kept.indices))
    return kept.spread(step_returns(kept.rewards, gamma))


def estimate(batch: Sequence[KeptSteps], config: StepReturnsConfig) -> list[Estimate]:
    """The return of each step, to be normalised by whatever `config.whiten` says."""
    return [of_returns(one, config.gamma) for one in batch]


def of_returns(one: KeptSteps, gamma: float) -> Estimate:
    """The return of each step, as it is."""
    returns = step_returns(one.rewards, gamma)
    return by_step(returns, returns, one.by_index(returns))
