"""The loss of the value head. Owns `value_loss`. Pure."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objective.aggregation import BatchScale
from learner.objective.row import RowCredit


def value_loss(values: Tensor, row: RowCredit, scale: BatchScale, clip: float | None) -> Tensor:
    """½·Σ (V(s_t) − G_t)² / states. `values` [S]; gives a scalar.

    With `clip`, each square is the larger one of V and of V_old + clip(V − V_old, ±clip): a critic gains nothing by
    leaving that band in one update (as in OpenAI Baselines; Engstrom et al. 2020).
    """
    squares = (values - row.value_targets).square()
    if clip is not None:
        if row.old_values is None:
            raise ValueError("value_loss: clip without old values; read V of every state before the first step")
        held = row.old_values + (values - row.old_values).clamp(-clip, clip)
        squares = torch.maximum(squares, (held - row.value_targets).square())
    return 0.5 * squares.sum() / max(scale.states, 1)
