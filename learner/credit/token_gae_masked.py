"""Generalised advantage estimation over the action tokens of a trajectory, as if no observation lay between them.

    δ_i = r_i + γ·V_{i+1} − V_i        Â_i = δ_i + γλ·Â_{i+1}        target of V_i = Â_i + V_i

over all action tokens i of the steps that did not abstain; V_i is the value of the state before token i; a step's
reward is that of its last token (Schulman et al. 2016, eq. 16). Recursion over every token, observations included,
multiplies what crosses an observation of n tokens by (γλ)^n: that is what the published StepTool code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from learner.credit.config import TokenGaeConfig
from learner.credit.credited import Numbers
from learner.credit.estimate import Estimate, from_the_prompt
from learner.credit.kept import KeptSteps
from learner.credit.step_gae import step_gae
from learner.credit.step_returns import step_returns


def token_gae(
    rewards: Sequence[float], values: Sequence[Numbers], gamma: float, lam: float, bootstrap: float = 0.0
) -> list[Numbers]:
    """Â_i from [n] step rewards and the values before each action token of [n] steps; as ragged as `values`."""
    flat = iter(step_gae(_at_tokens(rewards, values), list(chain(*values)), gamma, lam, bootstrap))
    return [tuple(next(flat) for _ in numbers) for numbers in values]


def _at_tokens(rewards: Sequence[float], values: Sequence[Numbers]) -> list[float]:
    """The reward of each step at its last action token, 0 at the others."""
    at_tokens = [0.0] * sum(map(len, values))
    end = 0
    for reward, numbers in zip(rewards, values, strict=True):
        end += len(numbers)
        at_tokens[end - 1] = reward
    return at_tokens


def with_targets(values: Sequence[Numbers], advantages: Sequence[Numbers], seen: Mapping[int, float]) -> Estimate:
    """One advantage and one target a token."""
    targets = tuple(
        tuple(a + v for a, v in zip(one, value, strict=True)) for one, value in zip(advantages, values, strict=True)
    )
    return Estimate(tuple(advantages), targets, seen)


def estimate(batch: Sequence[KeptSteps], config: TokenGaeConfig) -> list[Estimate]:
    """One advantage and one target a token."""
    return [of_one(one, one.rewards, config.gamma, config.lam) for one in batch]


def of_one(one: KeptSteps, rewards: Sequence[float], gamma: float, lam: float) -> Estimate:
    """Advantages and targets of one trajectory, with these rewards in the place of its own."""
    advantages = token_gae(rewards, one.values, gamma, lam, one.value_at_end)
    returns = step_returns(_at_tokens(rewards, one.values), gamma, one.value_at_end)
    return with_targets(one.values, advantages, from_the_prompt(one, returns))
