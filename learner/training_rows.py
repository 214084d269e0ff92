"""A packed row with what the objective knows of it, and the counts of the batch that it belongs to.

Owns `TrainingRow`, `batch_scale` and the choice of which tokens are computed. Pure; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.config import LearnerConfig, ValueHeadConfig
from learner.credit import CreditedTrajectory
from learner.objective.aggregation import BatchScale
from learner.objective.loss import compares_whole_units, has_gradient_without_advantage
from learner.objective.row import RowCredit
from learner.packing import Keep, PackedRow, PackItem


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One micro-batch of an update."""

    packed: PackedRow
    credit: RowCredit
    trajectories: tuple[str, ...]
    """Ids, to name them where the row's loss is no number."""


def training_row(
    packed: PackedRow,
    credited: Sequence[CreditedTrajectory],
    *,
    old: Tensor | None,
    old_values: Tensor | None,
    reference: Tensor | None,
) -> TrainingRow:
    """`credited` are the trajectories that the row's items index; `old` None: ratios compare with the behaviour."""
    credit = RowCredit(
        behaviour=packed.behaviour,
        old=packed.behaviour if old is None else old,
        reference=reference,
        advantages=packed.advantages,
        step=packed.action_step,
        trajectory=packed.action_item,
        step_tokens=packed.step_tokens,
        trajectory_tokens=packed.trajectory_tokens,
        value_targets=packed.value_targets,
        old_values=old_values,
    )
    items = dict.fromkeys(packed.action_item.tolist())
    return TrainingRow(packed, credit, tuple(credited[index].scored.trajectory.id for index in items))


def batch_scale(credited: Sequence[CreditedTrajectory]) -> BatchScale:
    """Count what the whole batch has credit for; the same on every rank."""
    lengths = [
        [
            len(step.action_ids)
            for step, advantage in zip(one.scored.trajectory.steps, one.advantages, strict=True)
            if advantage is not None
        ]
        for one in credited
    ]
    return BatchScale(
        action_tokens=sum(map(sum, lengths)),
        steps=sum(map(len, lengths)),
        trajectories=sum(map(bool, lengths)),
        states=sum(map(_targets, credited)),
    )


def _targets(credited: CreditedTrajectory) -> int:
    """States of a trajectory with a value target."""
    if credited.tokens is None:
        return sum(number is not None for number in credited.returns)
    return sum(len(numbers) for numbers in credited.tokens.returns if numbers is not None)


def tokens_to_keep(config: LearnerConfig, critic: ValueHeadConfig | None) -> Keep:
    """Only those with an advantage, unless something else has a gradient or a ratio spans tokens without one."""
    needs_all = compares_whole_units(config.loss) or has_gradient_without_advantage(config.loss)
    return Keep.ALL if critic is not None or needs_all else Keep.CREDITED


def can_teach(items: Sequence[PackItem]) -> bool:
    """Whether any token has a non-zero advantage."""
    return any(advantage != 0.0 for item in items for advantage in item.advantages)
