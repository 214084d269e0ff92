"""Group relative policy optimisation over outcomes: the baseline that knows nothing of steps.

    Â_i = (o_i − mean) / std over the group, for every token of trajectory i

(Shao et al. 2024, arXiv 2402.03300; deviations are those of the population, with a floor.) The normalisation is
the setting `whiten`.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import GrpoConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.outcome import by_outcome, outcomes_of


def estimate(batch: Sequence[KeptSteps], config: GrpoConfig) -> list[Estimate]:
    """The outcome, to be normalised by whatever `config.whiten` says."""
    return by_outcome(batch, outcomes_of(batch))
