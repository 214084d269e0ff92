"""One rank of the learner: a DeepSpeed engine around the policy, fed with packed rows.

Owns `LearnerRank`. Consumes credited trajectories and demonstrations, produces new weights. A plain
class without Ray: `group` puts it into actors. Every public method is collective: all ranks call it with the same
arguments, in the same order, and each works on its share of the rows.

DeepSpeed averages gradients over ranks, while the losses here are shares of one sum: each is scaled by the number of
ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from actors.trajectory import Trajectory
from learner.attention_check import checked_plan
from learner.config import LearnerConfig, RecomputeActivations, ValueHeadConfig
from learner.credit import CreditedTrajectory, StateAt
from learner.engine import Rates, StepTaken, build_engine, join, own_device, take_step
from learner.engine_state import copy_weights
from learner.errors import NonFinite
from learner.forest import Layout
from learner.loss_watch import STEPS_STAND, LossWatch
from learner.minibatches import split_groups, with_steps
from learner.objective.aggregation import BatchScale
from learner.objective.config import FixedControl, NoCorrection, NoKl, ReferenceKl
from learner.objective.kl import estimate, next_coefficient
from learner.objective.loss import (
    Predictions,
    RowLoss,
    ValueTerm,
    Weights,
    has_kl_term,
    imitation_loss,
    reinforcement_loss,
)
from learner.objective.penalty import sum_by_step
from learner.objective.row import RowCredit
from learner.objective.stats import KlSums, LossStats
from learner.packing import (
    IDLE,
    Demonstration,
    PackedRow,
    PackItem,
    items_to_imitate,
    items_to_read,
    items_to_train,
    pack_share,
)
from learner.phases import Phase, PhaseClock
from learner.policy import TORCH_DTYPES, PolicyWithCritic, RowOutputs, Wanted, load_model, recompute_activations
from learner.reference import choose_reference
from learner.reports import SftReport, StepsTaken, UpdateReport
from learner.saving import BackgroundWriter, Digests, Progress, restore_engine, take_snapshot, write_snapshot
from learner.schedules import rate_at
from learner.trained import choose_trained
from learner.training_rows import TrainingRow, batch_scale, can_teach, tokens_to_keep, training_row
from learner.utterance_features import features_by_item, utterance_items

Part = TypeVar("Part")
"""What a rank knows of one minibatch."""


class LearnerRank:
    """The part of the learner that lives in one process. `MASTER_ADDR` and `MASTER_PORT` are in the environment."""

    def __init__(
        self, config: LearnerConfig, critic: ValueHeadConfig | None, rank: int, ranks: int, *, compares: bool = False
    ) -> None:
        """`critic` is None where the estimator does not read the policy's value head. `compares`: a reference policy
        is kept, whether there is KL control or not."""
        self._config = config
        self._critic = critic
        self._rank = rank
        self._ranks = ranks
        self._updates = 0
        self._clock = PhaseClock()
        self._losses = LossWatch(rank, ranks)
        self._layout = Layout.SHARED
        self._writer = BackgroundWriter()
        self._kl_coef = _first_coefficient(config)
        self._penalised = KlSums(0, 0.0, 0.0, 0.0)
        join(rank, ranks, config)
        torch.manual_seed(config.seed)
        model = load_model(config.model_path, TORCH_DTYPES[config.dtype])
        kept = compares or isinstance(config.loss.kl, ReferenceKl)
        self._trained = choose_trained(model, config, with_reference=kept)
        self._reference = choose_reference(
            config, self._trained, lambda row: self._read(row, Wanted.PREDICTIONS), with_reference=kept
        )
        self._engine = self._build(model)

    # -- training ---------------------------------------------------------------------------------------------------

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        """Reinforce: up to `passes` times over the batch, an optimiser step for each minibatch that has credit.

        Raises:
            NonFinite: on every rank, before a bad step is applied; steps on earlier minibatches stand.
        """
        self._clock = PhaseClock()
        credited = with_steps(credited)
        minibatches, scale = self._minibatches(credited), batch_scale(credited)
        taken = self._go_through(
            list(filter(None, minibatches)),
            lambda rows: [self._reinforce(row, scale, len(minibatches)) for row in rows],
        )
        stats, coef = self._with_reference(taken.stats), self._kl_coef
        self._follow_kl(stats, len(credited))
        tokens = sum(row.packed.token_count for rows in minibatches for row in rows)
        return UpdateReport.of(credited, tokens, replace(taken, stats=stats), coef, self._clock)

    def sft_step(self, demonstrations: Sequence[Demonstration], step: int = 0, steps: int = 1) -> SftReport:
        """Imitate: one optimiser step on these demonstrations."""
        items = items_to_imitate(demonstrations)
        tokens = sum(len(item.action_at) for item in items)
        rows = self._share(items)
        loss = sum(self._imitate(row, tokens) for row in rows)
        lr = self._config.sft.lr
        # The separate layers have no gradient yet: weight decay alone would move them.
        taken = self._step(Rates(lr, lr, critic_body=0.0), bound=None)
        return SftReport(step, steps, loss, taken.norm, sum(row.token_count for row in rows))

    def begin_reinforcement(self) -> None:
        """Leave the warm start behind: forget its Adam moments, begin a separate critic with the policy's layers, and
        freeze the reference where there is KL control."""
        for state in self._engine.basic_optimizer.state.values():
            for name, value in state.items():
                state[name] = value.zero_() if isinstance(value, Tensor) else 0
        self._updates = 0
        self._kl_coef = _first_coefficient(self._config)
        if self._policy.critic_body is not None:
            copy_weights(self._engine, f"model.{self._policy.model.base_model_prefix}.", "critic_body.")
        self._reference.freeze()

    # -- reading ----------------------------------------------------------------------------------------------------

    def values(self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> dict[int, tuple[float, ...]]:
        """V at every step or before every action token, by index of the trajectory, for this rank's share.

        A trajectory without a step has no state and no entry.
        """
        items = [_without_actions(item) for item in items_to_read(trajectories, at)]
        if not items:
            return {}
        rows = self._share(items)
        outputs = [(row.value_item, self._read(row, Wanted.VALUES).values) for row in rows]
        return _by_item(outputs)

    def features(self, trajectories: Sequence[Trajectory]) -> dict[int, Tensor]:
        """[2T, d] hidden states of the policy at the end of the state and of the action of each of T steps in turn,
        normalised, in half precision; by index of the trajectory, for this rank's share.
        """
        items = utterance_items(trajectories)
        rows = self._share(items) if items else []
        return features_by_item([(row.value_item, self._read(row).states) for row in rows])

    def log_probs(self, sequences: Sequence[Demonstration]) -> dict[int, tuple[float, ...]]:
        """Log-probability in nats of every masked token, by index of the sequence, for this rank's share.

        Of the plain softmax at temperature 1, in the precision of the weights, with float32 normalisation.
        """
        rows = self._share(items_to_imitate(sequences))
        outputs = [(row.action_item, self._read(row, Wanted.PREDICTIONS).logprobs) for row in rows]
        return _by_item(outputs)

    def step_penalties(self, trajectories: Sequence[Trajectory]) -> dict[int, tuple[float, ...]]:
        """β·KL of every step's action tokens to the reference, in units of reward, by index of the trajectory, for this
        rank's share; for a KL placed in the reward. The next update reports the KL, and an adaptive β follows it.
        A trajectory without a step has no entry.
        """
        kl = self._config.loss.kl
        if not isinstance(kl, ReferenceKl):
            raise RuntimeError("step penalties: no reference policy; set learner.loss.kl.kind to reference")
        items = items_to_read(trajectories)
        rows = self._share(items) if items else []
        read = [(row, self._reference.logprobs(row)) for row in rows]
        self._penalised = KlSums.total([KlSums.of(row.behaviour, reference) for row, reference in read])
        costs = [(row.action_item, self._kl_coef * estimate(row.behaviour, ref, kl.estimator)) for row, ref in read]
        return {index: sum_by_step(trajectories[index], numbers) for index, numbers in _by_item(costs).items()}

    def state_dict_iter(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the language model under its Hugging Face name, whole, in the training dtype.

        Tied weights appear once, adapters are merged. Collective: every rank must exhaust it. A tensor may be a live
        one and is valid until the next item; copy what is to be kept.
        """
        return self._trained.whole()

    def full_parameters(self) -> dict[str, Tensor]:
        """A copy of every parameter on rank 0, an empty dict on the others. Collective."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.state_dict_iter():
            if self._rank == 0:
                found[name] = tensor.clone()
        return found

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Copy all that a checkpoint holds, and begin to write it into a directory that all ranks see. Collective.

        Returns once the copy is made: training may go on. `saved` tells when the files are complete.
        """
        progress = Progress(self._updates, self._kl_coef)
        snapshot = take_snapshot(self._engine, self._rank, self._ranks, progress, self._trained)
        model, reference = self._policy.model, self._reference.copied()
        self._writer.start(lambda: write_snapshot(snapshot, Path(path), model, reference))

    def saved(self) -> Digests | None:
        """Digests of the files that this rank wrote, by relative path; None while it writes. Not collective."""
        return self._writer.written()

    def load(self, path: str) -> None:
        """Continue from what `save` wrote, on any number of ranks and at any ZeRO stage. Collective."""
        progress = restore_engine(self._engine, Path(path), self._rank, self._trained)
        self._updates, self._kl_coef = progress.updates, progress.kl_coef
        if Path(path, "reference").is_dir():
            self._reference.load(Path(path, "reference"))

    def lay_out(self, layout: Layout) -> None:
        """From now on rows are laid out like this; only a comparison wants another layout than the first."""
        self._layout = layout

    def ping(self) -> int:
        """The rank, as a sign of life."""
        return self._rank

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> PolicyWithCritic:
        return self._engine.module

    def _build(self, model: PreTrainedModel) -> Any:
        if isinstance(self._config.activations, RecomputeActivations):
            recompute_activations(model)
        backbone = self._critic.backbone if self._critic else "detached"
        policy = PolicyWithCritic(model, backbone, checked_plan(self._config, model, own_device())).train()
        return build_engine(policy, self._config)

    def _go_through(self, minibatches: Sequence[Part], learn: Callable[[Part], list[LossStats]]) -> StepsTaken:
        """Up to `passes` times: `learn` accumulates the gradient of each minibatch, and a step applies it."""
        stats, steps, lr, passes = LossStats.total([]), list[StepTaken](), 0.0, 0
        while passes < self._config.passes and not (passes and self._has_moved(stats)):
            found: list[LossStats] = []
            for one in minibatches:
                found += learn(one)
                with self._clock.during(Phase.STEP):
                    lr, step = self._reinforcement_step()
                steps.append(step)
            stats, passes = LossStats.total(found), passes + 1
        return StepsTaken(stats, steps, lr, passes)

    def _minibatches(self, credited: Sequence[CreditedTrajectory]) -> list[list[TrainingRow]]:
        """This rank's rows of each minibatch; none where nothing is taught."""
        parts = split_groups(credited, self._config.minibatches)
        return [self._rows_of(part) for part in parts]

    def _rows_of(self, part: Sequence[CreditedTrajectory]) -> list[TrainingRow]:
        with self._clock.during(Phase.PACKING):
            items = items_to_train(part, tokens_to_keep(self._config, self._critic))
            rows = self._share(items) if can_teach(items) else []
        with self._clock.during(Phase.FORWARD):
            return [self._prepared(row, part) for row in rows]

    def _prepared(self, row: PackedRow, part: Sequence[CreditedTrajectory]) -> TrainingRow:
        """A row with what is read before the first step: log-probabilities, values and those of the reference."""
        clips = self._critic is not None and self._critic.clip is not None
        recomputes = self._config.recomputes_old
        wanted = Wanted.ALL if recomputes and clips else Wanted.PREDICTIONS if recomputes else Wanted.VALUES
        before = self._read(row, wanted) if recomputes or clips else None
        return training_row(
            row,
            part,
            old=before.logprobs if before and recomputes else None,
            old_values=before.values if before and clips else None,
            reference=self._reference.logprobs(row) if has_kl_term(self._config.loss) else None,
        )

    def _share(self, items: Sequence[PackItem]) -> list[PackedRow]:
        rows = pack_share(items, self._config.pack_tokens, self._rank, self._ranks, self._layout)
        return [row.to(own_device()) for row in rows]

    def _reinforce(self, row: TrainingRow, scale: BatchScale, minibatches: int) -> LossStats:
        """Accumulate a row's gradient. Its loss is a share of the whole batch's; a step sees one minibatch of it."""
        if self._critic is not None and self._critic.backbone == "shared":
            self._policy.learn_from_values("detached" if self._critic_learns_alone() else "shared")
        with self._clock.during(Phase.FORWARD):
            outputs: RowOutputs = self._engine(row.packed)
        with self._clock.during(Phase.LOSS):
            row_loss = self._row_loss(row, outputs, scale)
        with self._clock.during(Phase.BACKWARD):
            self._backward(row_loss.loss * minibatches, row.trajectories)
        return row_loss.stats

    def _row_loss(self, row: TrainingRow, outputs: RowOutputs, scale: BatchScale) -> RowLoss:
        predicted = Predictions(outputs.logprobs, outputs.entropies, outputs.values)
        credit = self._compared_with(row.credit, outputs.logprobs)
        return reinforcement_loss(predicted, credit, scale, self._config.loss, self._weights())

    def _compared_with(self, credit: RowCredit, logprobs: Tensor) -> RowCredit:
        """Where an update is one step, the old policy of a corrected objective is the current one."""
        corrects = not isinstance(self._config.loss.correction, NoCorrection)
        return replace(credit, old=logprobs.detach()) if corrects and not self._config.recomputes_old else credit

    def _weights(self) -> Weights:
        value = ValueTerm(self._critic.coef, self._critic.clip) if self._critic else None
        return Weights(0.0 if self._critic_learns_alone() else 1.0, self._kl_coef, value)

    def _critic_learns_alone(self) -> bool:
        return self._critic is not None and self._updates < self._critic.warmup_steps

    def _reinforcement_step(self) -> tuple[float, StepTaken]:
        """Apply the gradient; gives the rate of the policy and what became of the step."""
        optimiser, critic = self._config.optimiser, self._critic
        warmup = critic.warmup_steps if critic else 0
        # Rate 0 while the critic learns alone: weight decay would move the policy without any gradient.
        lr = rate_at(self._updates - warmup, optimiser.lr, optimiser) if self._updates >= warmup else 0.0
        head_lr = rate_at(self._updates, critic.lr, optimiser) if critic else lr
        body_peak = (critic.backbone_lr if critic else None) or optimiser.lr
        rates = Rates(lr, head_lr, rate_at(self._updates, body_peak, optimiser))
        taken = self._step(rates, optimiser.skip_grad_norm)
        self._updates += taken.applied
        return lr, taken

    def _has_moved(self, stats: LossStats) -> bool:
        """Whether the policy is too far from the old one for another pass; all ranks say the same."""
        if self._config.stop_kl is None:
            return False
        total, tokens = self._sum_over_ranks(stats.old_kl_sum, stats.tokens)
        return total > self._config.stop_kl * tokens

    def _with_reference(self, stats: LossStats) -> LossStats:
        return stats if has_kl_term(self._config.loss) else stats.with_reference(self._penalised)

    def _follow_kl(self, stats: LossStats, trajectories: int) -> None:
        kl = self._config.loss.kl
        if isinstance(kl, NoKl) or isinstance(kl.control, FixedControl):
            return
        total, tokens = self._sum_over_ranks(stats.reference_kl_sum(kl.estimator), stats.reference_tokens)
        if tokens:
            self._kl_coef = next_coefficient(self._kl_coef, total / tokens, trajectories, kl.control)

    def _sum_over_ranks(self, *numbers: float) -> list[float]:
        summed = torch.tensor(numbers, dtype=torch.float64, device=self._engine.device)
        torch.distributed.all_reduce(summed)
        return summed.tolist()

    def _imitate(self, row: PackedRow, tokens: int) -> float:
        outputs: RowOutputs = self._engine(row)
        loss = imitation_loss(outputs.logprobs, tokens) + outputs.values.sum() * 0.0
        self._backward(loss, ())
        return float(loss.detach())

    def _backward(self, loss: Tensor, trajectories: Sequence[str]) -> None:
        self._losses.see(loss, trajectories)
        self._engine.backward(loss * self._ranks)

    def _step(self, rates: Rates, bound: float | None) -> StepTaken:
        self._losses.expect_finite(self._engine.device)
        taken = take_step(self._engine, rates, bound)
        if not math.isfinite(taken.norm):
            raise NonFinite(f"rank {self._rank}: gradient norm {taken.norm}, expected a finite number; {STEPS_STAND}")
        return taken

    def _read(self, row: PackedRow, wanted: Wanted = Wanted.ALL) -> RowOutputs:
        with torch.no_grad():
            return self._engine(row, wanted)


def _first_coefficient(config: LearnerConfig) -> float:
    return 0.0 if isinstance(config.loss.kl, NoKl) else config.loss.kl.coef


def _without_actions(item: PackItem) -> PackItem:
    end = item.value_at[-1] + 1
    return replace(
        item, token_ids=item.token_ids[:end], action_at=(), behaviour=(), advantages=(), action_step=(), step_tokens=()
    )


def _by_item(outputs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, tuple[float, ...]]:
    gathered: dict[int, list[float]] = {}
    for items, numbers in outputs:
        for item, number in zip(items.tolist(), numbers.tolist(), strict=True):
            gathered.setdefault(item, []).append(number)
    return {item: tuple(numbers) for item, numbers in gathered.items() if item != IDLE}
