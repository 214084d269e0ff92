"""The loss of learning from preferences between two trajectories of one task. A pure function of log-probabilities.

Beside `losses`, whose objective is one of advantages; `learner.credit.pairs` says which trajectories are compared.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def preference_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """−mean log σ(β·[(log π(w) − log π_ref(w)) − (log π(l) − log π_ref(l))]) (DPO, Rafailov et al. 2023, eq. 7).

    All are [P]: for each of P pairs the sum, in nats, of the log-probabilities of a trajectory's action tokens, as ETO
    takes them (Song et al. 2024, arXiv 2403.02502): observation tokens are no part of it. A scalar.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * margin).mean()
