"""A rank of the learner that learns from preferences between trajectories, not from advantages.

Owns `PreferenceRank`. Consumes trajectories credited by `eto`, produces new weights, as any rank does.

A pair's two trajectories may lie in different rows and on different ranks, and the slope of its loss needs both. Before
each optimiser step all ranks therefore read log π of their trajectories and add up what they read; from then on every
trajectory has one known slope for all its action tokens, and rows are packed and gone through as ever. The gradient is
that of the loss itself, however the batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from learner.config import LearnerConfig
from learner.credit import CreditedTrajectory
from learner.credit.config import EtoConfig
from learner.credit.pairs import Pair, preference_pairs
from learner.minibatches import split_groups, with_steps
from learner.objective.stats import LossStats, Terms, measure
from learner.packing import PackedRow
from learner.phases import Phase, PhaseClock
from learner.policy import RowOutputs
from learner.preference import margins, slopes
from learner.rank import LearnerRank
from learner.reports import UpdateReport
from learner.training_rows import TrainingRow, training_row


@dataclass(frozen=True, slots=True)
class Comparison:
    """The pairs of one minibatch, and this rank's share of its rows."""

    pairs: Sequence[Pair]
    rows: Sequence[TrainingRow]
    reference: Tensor
    """[K] Σ log π_ref of the action tokens of each trajectory of the minibatch, nats."""


class PreferenceRank(LearnerRank):
    """The part of the learner that lives in one process, for `credit.kind: eto`."""

    def __init__(self, config: LearnerConfig, preference: EtoConfig, rank: int, ranks: int) -> None:
        super().__init__(config, None, rank, ranks, compares=True)
        self._beta = preference.beta

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        """Prefer: up to `passes` times over the batch, an optimiser step for each minibatch that has a pair.

        Raises:
            NonFinite: before a bad step is applied; steps on earlier minibatches stand.
        """
        self._clock = PhaseClock()
        credited = with_steps(credited)
        parts = split_groups(credited, self._config.minibatches)
        compared = [one for part in parts if (one := self._comparison(part)) is not None]
        pairs = sum(len(one.pairs) for one in compared)
        # Each minibatch has a share of the batch's loss; a step sees one of them.
        taken = self._go_through(compared, lambda one: self._prefer(one, pairs, len(parts)))
        tokens = sum(row.packed.token_count for one in compared for row in one.rows)
        return UpdateReport.of(credited, tokens, taken, 0.0, self._clock)

    def _comparison(self, part: Sequence[CreditedTrajectory]) -> Comparison | None:
        """None where no two trajectories are to be told apart."""
        pairs = preference_pairs([one.scored for one in part])
        if not pairs:
            return None
        rows = self._rows_of(part)
        reference = self._sums(rows, len(part), lambda row: row.credit.reference)
        return Comparison(pairs, rows, reference)

    def _prepared(self, row: PackedRow, part: Sequence[CreditedTrajectory]) -> TrainingRow:
        """A row with the log-probabilities of the reference, which are read once."""
        return training_row(row, part, old=None, old_values=None, reference=self._reference.logprobs(row))

    def _prefer(self, one: Comparison, pairs: int, minibatches: int) -> list[LossStats]:
        """Accumulate the gradient of −Σ log σ(β·margin) / pairs over this rank's rows."""
        with self._clock.during(Phase.FORWARD):
            now = self._sums(one.rows, len(one.reference), lambda row: self._read(row.packed).logprobs)
        gains = now - one.reference
        by_trajectory = slopes(gains, one.pairs, self._beta) / pairs
        found = [self._pull(row, by_trajectory, minibatches) for row in one.rows]
        # Every rank knows all pairs: the first one tells of them, since what ranks report is added up.
        return [*found, _judged(margins(gains, one.pairs), self._beta, pairs)] if self._rank == 0 else found

    def _pull(self, row: TrainingRow, by_trajectory: Tensor, minibatches: int) -> LossStats:
        with self._clock.during(Phase.FORWARD):
            outputs: RowOutputs = self._engine(row.packed)
        slope = by_trajectory[row.credit.trajectory.cpu()].to(outputs.logprobs)
        # The sum over no value at all keeps the unused read-out in the graph, as ZeRO wants it.
        loss = (slope * outputs.logprobs).sum() + outputs.values.sum() * 0.0
        with self._clock.during(Phase.BACKWARD):
            self._backward(loss * minibatches, row.trajectories)
        return _measured(row, outputs.logprobs.detach(), outputs.entropies.detach(), self._config)

    def _sums(self, rows: Sequence[TrainingRow], count: int, read: Callable[[TrainingRow], Tensor | None]) -> Tensor:
        """[count] what `read` says of the action tokens of each trajectory, added up over rows and ranks; float64."""
        sums = torch.zeros(count, dtype=torch.float64)
        for row in rows:
            numbers = read(row)
            assert numbers is not None, "every row has the log-probabilities that are asked for"
            sums.index_add_(0, row.credit.trajectory.cpu(), numbers.double().cpu())
        return torch.tensor(self._sum_over_ranks(*sums.tolist()), dtype=torch.float64)


def _judged(found: Tensor, beta: float, pairs: int) -> LossStats:
    """What the margins of a minibatch say; its loss is a share of the batch's, which has `pairs`."""
    loss = float(-F.logsigmoid(beta * found).sum() / pairs)
    return replace(
        LossStats.total([]),
        loss=loss,
        policy_loss=loss,
        pairs=len(found),
        pairs_in_order=int((found > 0).sum()),
        margin_sum=float(found.sum()),
    )


def _measured(row: TrainingRow, logprobs: Tensor, entropies: Tensor, config: LearnerConfig) -> LossStats:
    """How far the policy is from behaviour and reference; nothing is clipped, and the loss is that of the pairs."""
    nothing = logprobs.new_zeros(())
    ratio = (logprobs - row.credit.old).exp()
    terms = Terms(nothing, nothing, nothing, nothing)
    stats = measure(terms, logprobs, entropies, ratio, torch.ones_like(ratio), row.credit, config.loss)
    return replace(stats, clipped_low=0, clipped_high=0)
