"""PPO as the paper's baseline has it: a critic over tokens, and the outcome as the only reward.

`token_gae_masked` with r = IsSolved at the last action token and 0 at every other (Schulman et al. 2017; the baseline
"PPO" of StepTool, arXiv 2410.07745). An episode that infrastructure cut has no outcome: its steps lead to the value of
the state at which it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import PpoOutcomeConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.token_gae_masked import of_one


def estimate(batch: Sequence[KeptSteps], config: PpoOutcomeConfig) -> list[Estimate]:
    """One advantage and one target a token."""
    return [_of_one(one, config) for one in batch]


def _of_one(one: KeptSteps, config: PpoOutcomeConfig) -> Estimate:
    rewards = [0.0] * len(one.rewards)
    if rewards and one.outcome is not None:
        rewards[-1] = one.outcome
    return of_one(one, rewards, config.gamma, config.lam)
