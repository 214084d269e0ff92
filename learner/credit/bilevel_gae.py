"""Bi-level generalised advantage estimation: over steps first, then within each step over its tokens.

    R_t = Â_t + V_t with Â_t from `step_gae`, where V_t is the value before the last token of step t
    Â_{t,i} from `token_gae_masked` within step t alone: reward R_t at its last token, nothing after it

(RAGEN, arXiv 2504.20073, as its code computes it.) With γ = 0 no credit crosses a step:
every step is a sub-trajectory of its own with its own reward, trained by PPO over tokens. That is the ablation "without
step optimisation" of StepTool (arXiv 2410.07745).
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import BilevelGaeConfig
from learner.credit.credited import Numbers
from learner.credit.estimate import Estimate, from_the_prompt
from learner.credit.kept import KeptSteps
from learner.credit.step_gae import step_gae
from learner.credit.step_returns import step_returns
from learner.credit.token_gae_masked import with_targets


def bilevel_gae(
    rewards: Sequence[float], values: Sequence[Numbers], config: BilevelGaeConfig, bootstrap: float = 0.0
) -> list[Numbers]:
    """Â_{t,i} from [n] step rewards and the values before each action token of [n] steps; as ragged as `values`."""
    last = [numbers[-1] for numbers in values]
    between = step_gae(rewards, last, config.gamma, config.lam, bootstrap)
    advantages: list[Numbers] = []
    for advantage, value, numbers in zip(between, last, values, strict=True):
        within = [0.0] * (len(numbers) - 1) + [advantage + value]
        advantages.append(tuple(step_gae(within, numbers, config.token_gamma, config.token_lam)))
    return advantages


def estimate(batch: Sequence[KeptSteps], config: BilevelGaeConfig) -> list[Estimate]:
    """One advantage and one target a token."""
    return [_of_one(one, config) for one in batch]


def _of_one(one: KeptSteps, config: BilevelGaeConfig) -> Estimate:
    advantages = bilevel_gae(one.rewards, one.values, config, one.value_at_end)
    first = step_returns(one.rewards, config.gamma, one.value_at_end)[0]
    within = [0.0] * (len(one.values[0]) - 1) + [first]
    return with_targets(one.values, advantages, from_the_prompt(one, step_returns(within, config.token_gamma)))
