"""ArCHer's actor: what an utterance was worth beyond what its state was worth.

    Â_t = Q(s_t, a_t) − V(s_t)

(Zhou et al. 2024, arXiv 2402.19446.) Both come from `learner.utterance_critic`, which learns them off policy; the
rewards of this batch reach the advantages through it alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import ArcherConfig
from learner.credit.estimate import Estimate, by_step, from_the_prompt
from learner.credit.kept import KeptSteps
from learner.credit.step_returns import step_returns


def estimate(batch: Sequence[KeptSteps], config: ArcherConfig) -> list[Estimate]:
    """One advantage a step; the critic has its own targets."""
    return [_of_one(one, config.gamma) for one in batch]


def _of_one(one: KeptSteps, gamma: float) -> Estimate:
    returns = step_returns(one.rewards, gamma, one.value_at_end)
    return by_step([q - v for v, q in one.values], [None] * len(one.indices), from_the_prompt(one, returns))
