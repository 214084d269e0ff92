"""Exploration-based trajectory optimisation: learn from pairs of trajectories of one task.

    Â_i = (pairs in which i is preferred) − (pairs in which another is preferred to i)

(Song et al. 2024, arXiv 2403.02502.) Where policy and reference are the same, the slope of the preference loss in the
log-probability of a trajectory is −Â_i·β / (2·pairs): the number tells which way each trajectory is pulled, and 0 or
none that it is in no pair. From then on the slope of each pair follows its margin: `learner.preference_rank`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from learner.credit.config import EtoConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.outcome import by_outcome
from learner.credit.pairs import preference_pairs


def estimate(batch: Sequence[KeptSteps], config: EtoConfig) -> list[Estimate]:
    """Wins less losses of each trajectory; None where it is compared with nobody."""
    balance = Counter[int]()
    for pair in preference_pairs([one.scored for one in batch]):
        balance[pair.chosen] += 1
        balance[pair.rejected] -= 1
    return by_outcome(batch, [float(balance[i]) if i in balance else None for i in range(len(batch))])
