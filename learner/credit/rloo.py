"""REINFORCE leave-one-out over outcomes.

    Â_i = o_i − mean of o_j over the other trajectories j of the group, for every token of trajectory i

(Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from learner.credit.config import RlooConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.normalising import less_the_others
from learner.credit.outcome import by_outcome, outcomes_of


def estimate(batch: Sequence[KeptSteps], config: RlooConfig) -> list[Estimate]:
    """One advantage a trajectory."""
    outcomes, groups = outcomes_of(batch), [one.group for one in batch]
    counts = Counter(groups)
    totals = {group: sum(o for o, g in zip(outcomes, groups, strict=True) if g == group) for group in counts}
    numbers = [less_the_others(o, counts[g], totals[g]) for o, g in zip(outcomes, groups, strict=True)]
    return by_outcome(batch, numbers)
