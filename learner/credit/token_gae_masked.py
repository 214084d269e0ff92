"""Generalised advantage estimation over the action tokens of a trajectory, as if no observation lay between them.

    δ_i = r_i + γ·V_{i+1} − V_i        Â_i = δ_i + γλ·Â_{i+1}        target of V_i = Â_i + V_i

over all action tokens i of the steps that did not abstain; V_i is the value of the state before token i; a step's
reward is that of its last token (Schulman et al. 2016, eq. 16). Recursion over every token, observations included,
multiplies what crosses an observation of n tokens by (γλ)^n: that is what the published StepTool code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from learner.credit.config import TokenGaeConfig
from learner.credit.credited import Numbers
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.step_gae import step_gae


def token_gae(
    rewards: Sequence[float], values: Sequence[Numbers], gamma: float, lam: float, bootstrap: float = 0.0
) -> list[Numbers]:
    """Â_i from [n] step rewards and the values before each action token of [n] steps; as ragged as `values`."""
    at_tokens = [0.0] * sum(map(len, values))
    end = 0
    for reward, numbers in zip(rewards, values, strict=True):
        end += len(numbers)
        at_tokens[end - 1] = reward
    flat = iter(step_gae(at_tokens, list(chain(*values)), gamma, lam, bootstrap))
    return [tuple(next(flat) for _ in numbers) for numbers in values]


def with_targets(values: Sequence[Numbers], advantages: Sequence[Numbers], seen: Sequence[float]) -> Estimate:
    """One advantage and one target a token."""
    targets = tuple(
        tuple(a + v for a, v in zip(one, value, strict=True)) for one, value in zip(advantages, values, strict=True)
    )
    return Estimate(tuple(advantages), targets, tuple(seen))


def estimate(batch: Sequence[KeptSteps], config: TokenGaeConfig) -> list[Estimate]:
    """One advantage and one target a token."""
    return [
        with_targets(
            one.values, token_gae(one.rewards, one.values, config.gamma, config.lam, one.value_at_end), one.rewards
        )
        for one in batch
    ]
