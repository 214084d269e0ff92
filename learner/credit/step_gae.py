"""Generalised advantage estimation with steps in place of time steps: StepTool's default.

    δ_t = r_t + γ·V(s_{t+1}) − V(s_t)        Â_t = δ_t + γλ·Â_{t+1}        target of V(s_t) = Â_t + V(s_t)

(Schulman et al. 2016, eq. 16; over steps: StepTool, arXiv 2410.07745, §4.2.) The value is read once a step, so neither
the length of an action nor that of an observation touches credit. γ = 0.99, λ = 0.9 with a value head are the settings
of Turn-PPO (arXiv 2512.17008). λ = 0 is one-step temporal difference: the high level of ArCHer (arXiv 2402.19446) on
policy, without its Q function, target network and replay, which `archer` has.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import StepGaeConfig
from learner.credit.estimate import Estimate, by_step, from_the_prompt
from learner.credit.kept import KeptSteps
from learner.credit.step_returns import step_returns


def step_gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float, bootstrap: float = 0.0
) -> list[float]:
    """Â_t from [n] rewards and [n] values; [n], in units of reward.

    `bootstrap` is V of the state after the last one, 0 where the episode ended there.
    """
    if len(rewards) != len(values):
        raise ValueError(f"step_gae: {len(values)} values for {len(rewards)} rewards; read the value once per step")
    advantages: list[float] = []
    following, next_value = 0.0, bootstrap
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        following = reward + gamma * next_value - value + gamma * lam * following
        next_value = value
        advantages.append(following)
    return advantages[::-1]


def estimate(batch: Sequence[KeptSteps], config: StepGaeConfig) -> list[Estimate]:
    """One advantage and one target a step."""
    return [_of_one(one, config.gamma, config.lam) for one in batch]


def _of_one(one: KeptSteps, gamma: float, lam: float) -> Estimate:
    values = one.step_values
    advantages = step_gae(one.rewards, values, gamma, lam, one.value_at_end)
    returns = step_returns(one.rewards, gamma, one.value_at_end)
    targets = [a + v for a, v in zip(advantages, values, strict=True)]
    return by_step(advantages, targets, from_the_prompt(one, returns))
