"""Rows for the objective from plain lists; shared by its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learner.objective.aggregation import BatchScale
from learner.objective.config import LossConfig
from learner.objective.loss import Predictions, RowLoss, ValueTerm, Weights, reinforcement_loss
from learner.objective.row import RowCredit

Lengths = Sequence[Sequence[int]]
"""Action tokens of each step of each trajectory."""


def row(lengths: Lengths, behaviour: Sequence[float], advantages: Sequence[float], **changes: Any) -> RowCredit:
    """Tokens in order of trajectory and step; ratios compare with the behaviour unless `old` says otherwise."""
    steps = [n for trajectory in lengths for n in trajectory]
    totals = [sum(trajectory) for trajectory in lengths]
    chosen: dict[str, Any] = {
        "old": list(behaviour),
        "reference": None,
        "value_targets": [],
        "old_values": None,
        **changes,
    }
    floats: dict[str, Any] = {
        name: None if numbers is None else torch.tensor(numbers) for name, numbers in chosen.items()
    }
    return RowCredit(
        behaviour=torch.tensor(behaviour),
        advantages=torch.tensor(advantages),
        step=torch.tensor(_repeat(range(len(steps)), steps)),
        trajectory=torch.tensor(_repeat(range(len(totals)), totals)),
        step_tokens=torch.tensor(_repeat(steps, steps), dtype=torch.float32),
        trajectory_tokens=torch.tensor(_repeat(totals, totals), dtype=torch.float32),
        **floats,
    )


def scale_of(lengths: Lengths, states: int = 0) -> BatchScale:
    """The scale of a batch that is this one row."""
    return BatchScale(sum(map(sum, lengths)), sum(map(len, lengths)), len(lengths), states)


def loss_of(
    logprobs: Tensor,
    credit: RowCredit,
    scale: BatchScale,
    config: LossConfig | None = None,
    *,
    entropies: Tensor | None = None,
    values: Tensor | None = None,
    kl: float = 0.0,
    policy: float = 1.0,
    value: ValueTerm | None = None,
) -> RowLoss:
    """The loss of a row; entropies are zero and there are no values unless given."""
    predicted = Predictions(
        logprobs,
        torch.zeros(len(logprobs)) if entropies is None else entropies,
        torch.empty(0) if values is None else values,
    )
    return reinforcement_loss(predicted, credit, scale, config or LossConfig(), Weights(policy, kl, value))


def _repeat(numbers: Sequence[int] | range, counts: Sequence[int]) -> list[int]:
    return [number for number, count in zip(numbers, counts, strict=True) for _ in range(count)]
