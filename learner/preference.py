"""The loss of learning from preferences between trajectories of one task. Pure functions of log-probabilities.

Beside `objective`, which is one of advantages; `learner.credit.pairs` says which trajectories are compared, and
`learner.preference_rank` steps. The trajectories of a pair may lie in different rows and on different ranks, so the
loss is never differentiated as a whole: `slopes` gives its derivative in the log-probability of each trajectory, which
is all that the backward pass of a row needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from learner.credit.pairs import Pair


def preference_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """−mean log σ(β·[(log π(w) − log π_ref(w)) − (log π(l) − log π_ref(l))]) (DPO, Rafailov et al. 2023, eq. 7).

    All are [P]: for each of P pairs the sum, in nats, of the log-probabilities of a trajectory's action tokens, as ETO
    takes them (Song et al. 2024, arXiv 2403.02502): observation tokens are no part of it. A scalar.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * margin).mean()


def margins(gains: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """gain(w) − gain(l) of each pair. `gains` [K] nats: log π − log π_ref of each trajectory. Gives [P]."""
    return gains[[pair.chosen for pair in pairs]] - gains[[pair.rejected for pair in pairs]]


def slopes(gains: Tensor, pairs: Sequence[Pair], beta: float) -> Tensor:
    """∂ Σ_p −log σ(β·margin_p) / ∂ log π(k): −β·σ(−β·margin) for the chosen of each pair, and + for the rejected.

    `gains` [K] nats, as for `margins`. Gives [K]: a sum over the pairs that a trajectory is in, 0 where it is in none.
    """
    pull = beta * torch.sigmoid(-beta * margins(gains, pairs))
    found = torch.zeros_like(gains)
    found.index_add_(0, torch.tensor([pair.chosen for pair in pairs]), -pull)
    return found.index_add_(0, torch.tensor([pair.rejected for pair in pairs]), pull)
