"""REINFORCE++ over outcomes: no critic and no group.

    Â_i = (o_i − mean) / std over the trajectories of the batch, for every token of trajectory i

(Hu 2025, arXiv 2501.03262, whose token-level KL penalty belongs to the loss here.) The normalisation is the
setting `whiten`.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import ReinforcePpConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.outcome import by_outcome, outcomes_of


def estimate(batch: Sequence[KeptSteps], config: ReinforcePpConfig) -> list[Estimate]:
    """The outcome, to be normalised by whatever `config.whiten` says."""
    return by_outcome(batch, outcomes_of(batch))
