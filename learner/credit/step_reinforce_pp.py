"""REINFORCE++ with steps in place of sequences: discounted step returns, whitened over the batch, without a critic.

    Â_t = (G_t − mean) / std over all steps of the batch, G_t as in `step_returns`

(Hu 2025, arXiv 2501.03262, whose token-level KL penalty belongs to the loss here.) The normalisation is the
setting `whiten`.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.credit.config import StepReinforcePpConfig
from learner.credit.estimate import Estimate
from learner.credit.kept import KeptSteps
from learner.credit.step_returns import of_returns


def estimate(batch: Sequence[KeptSteps], config: StepReinforcePpConfig) -> list[Estimate]:
    """The return of each step."""
    return [of_returns(one, config.gamma) for one in batch]
