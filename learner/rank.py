"""One rank of the learner: a DeepSpeed engine around the policy, fed with packed rows.

Owns `LearnerRank` and `UpdateReport`. Consumes credited trajectories and demonstrations, produces new weights. A plain
class without Ray: `group` puts it into actors. Every public method is collective: all ranks call it with the same
arguments, in the same order, and each works on its share of the rows.

DeepSpeed averages gradients over ranks, while the losses here are shares of one sum: each is scaled by the number of
ranks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from actors.trajectory import Trajectory
from learner.config import LearnerConfig, ValueHeadConfig
from learner.credit import CreditedTrajectory, StateAt
from learner.engine import PlainClip, build_engine, join
from learner.errors import NonFinite
from learner.losses import BatchScale, Credit, LossStats, imitation_loss, reinforcement_loss
from learner.minibatches import split_groups
from learner.packing import (
    IDLE,
    Demonstration,
    Keep,
    PackedRow,
    PackItem,
    items_to_imitate,
    items_to_read,
    items_to_train,
    pack,
)
from learner.policy import PolicyWithCritic, RowOutputs, load_model

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did, on one rank or, summed, on all."""

    optimiser_steps: int
    """0 where no step of the batch had a non-zero advantage: nothing was computed and nothing changed."""
    stats: LossStats
    grad_norm: float
    """Global L2 norm before clipping, of the last step."""
    lr: float
    batch_tokens: int
    """Tokens of the trajectories, shared prompts counted once for each."""
    computed_tokens: int
    """Tokens that went through the model, all passes together."""
    seconds: float

    def summary(self) -> dict[str, float]:
        """Numbers by the names that metrics use."""
        return {
            **self.stats.summary(),
            "optimiser_steps": float(self.optimiser_steps),
            "grad_norm": self.grad_norm,
            "lr": self.lr,
            "batch_tokens": float(self.batch_tokens),
            "computed_tokens": float(self.computed_tokens),
            "update_seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class SftReport:
    """One optimiser step of the warm start."""

    step: int
    steps: int
    loss: float
    """Nats per demonstrated token."""
    grad_norm: float
    tokens: int


class LearnerRank:
    """The part of the learner that lives in one process. `MASTER_ADDR` and `MASTER_PORT` are in the environment."""

    def __init__(self, config: LearnerConfig, critic: ValueHeadConfig | None, rank: int, ranks: int) -> None:
        """`critic` is None where the estimator does not read the policy's value head."""
        self._config = config
        self._critic = critic
        self._rank = rank
        self._ranks = ranks
        self._updates = 0
        self._reference: PolicyWithCritic | None = None
        join(rank, ranks, config)
        torch.manual_seed(config.seed)
        self._engine, self._clip = self._build()

    # -- training ---------------------------------------------------------------------------------------------------

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        """Reinforce: `passes` times over the batch, an optimiser step for each minibatch that has credit.

        Raises:
            NonFinite: before a bad step is applied; steps on earlier minibatches stand.
        """
        began = time.monotonic()
        batch_tokens = sum(one.scored.trajectory.token_count for one in credited)
        minibatches = self._minibatches(credited)
        scale = batch_scale(credited)
        stats, norm, lr = LossStats.total([]), 0.0, 0.0
        for _ in range(self._config.passes):
            parts: list[LossStats] = []
            for rows in filter(None, minibatches):
                parts += [self._reinforce(*row, scale, len(minibatches)) for row in rows]
                lr, norm = self._reinforcement_step()
            stats = LossStats.total(parts)
        steps = self._config.passes * sum(bool(rows) for rows in minibatches)
        computed = self._config.passes * sum(row.token_count for rows in minibatches for row, _ in rows)
        return UpdateReport(steps, stats, norm, lr, batch_tokens, computed, time.monotonic() - began)

    def sft_step(self, demonstrations: Sequence[Demonstration], step: int = 0, steps: int = 1) -> SftReport:
        """Imitate: one optimiser step on these demonstrations."""
        items = items_to_imitate(demonstrations)
        scale = BatchScale(action_tokens=sum(len(item.action_at) for item in items), states=0)
        rows = self._share(items)
        loss = sum(self._imitate(row, scale) for row in rows)
        norm = self._step(self._config.sft.lr, self._config.sft.lr)
        return SftReport(step, steps, loss, norm, sum(row.token_count for row in rows))

    def begin_reinforcement(self) -> None:
        """Leave the warm start behind: forget its Adam moments, and freeze the reference where the loss has one."""
        for state in self._engine.basic_optimizer.state.values():
            for name, value in state.items():
                state[name] = value.zero_() if isinstance(value, Tensor) else 0
        self._updates = 0
        if self._config.loss.kl.kind == "reference":
            self._freeze_reference()

    # -- reading ----------------------------------------------------------------------------------------------------

    def values(self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> dict[int, tuple[float, ...]]:
        """V at every step or before every action token, by index of the trajectory, for this rank's share.

        A trajectory without a step has no state and no entry.
        """
        items = [_without_actions(item) for item in items_to_read(trajectories, at) if item.value_at]
        if not items:
            return {}
        rows = self._share(items)
        outputs = [(row.value_item, self._read(row).values) for row in rows]
        return _by_item(outputs)

    def log_probs(self, sequences: Sequence[Demonstration]) -> dict[int, tuple[float, ...]]:
        """Log-probability in nats of every masked token, by index of the sequence, for this rank's share.

        Of the plain softmax at temperature 1, in the precision of the weights, with float32 normalisation.
        """
        rows = self._share(items_to_imitate(sequences))
        outputs = [(row.action_item, self._read(row).logprobs) for row in rows]
        return _by_item(outputs)

    def state_dict_iter(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the language model under its Hugging Face name, whole, in the training dtype.

        Tied weights appear once. Collective: every rank must exhaust it. The tensors are the live ones at stages 0 to 2
        and valid only until the next item at stage 3; copy what is to be kept.
        """
        for name, parameter in self._policy.model.named_parameters():
            if hasattr(parameter, "ds_id"):
                with deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.data
            else:
                yield name, parameter.data

    def full_parameters(self) -> dict[str, Tensor]:
        """A copy of every parameter on rank 0, an empty dict on the others. Collective."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.state_dict_iter():
            if self._rank == 0:
                found[name] = tensor.clone()
        return found

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Write `model/` (Hugging Face safetensors), `engine/` (master weights, moments, critic) and `learner.json`.

        Collective, into one directory that all ranks see and that the caller makes atomic.
        """
        weights = self.full_parameters()
        if self._rank == 0:
            self._policy.model.save_pretrained(Path(path, "model"), state_dict=_with_ties(self._policy.model, weights))
        self._engine.save_checkpoint(path, tag="engine", client_state={"rng": torch.get_rng_state()}, save_latest=False)
        if self._reference is not None and self._rank == 0:
            self._reference.model.save_pretrained(Path(path, "reference"))
        if self._rank == 0:
            Path(path, "learner.json").write_text(json.dumps({"updates": self._updates, "ranks": self._ranks}))
        torch.distributed.barrier()

    def load(self, path: str) -> None:
        """Continue from what `save` wrote, with the same number of ranks and the same ZeRO stage. Collective."""
        state = json.loads(Path(path, "learner.json").read_text())
        if state["ranks"] != self._ranks:
            raise ValueError(
                f"checkpoint {path!r}: written by {state['ranks']} ranks, found {self._ranks}; "
                "resume with as many ranks as wrote it"
            )
        found, client_state = self._engine.load_checkpoint(path, tag="engine")
        if found is None:
            raise FileNotFoundError(f"checkpoint {path!r}: no readable engine state; take an earlier checkpoint")
        torch.set_rng_state(client_state["rng"])
        self._updates = state["updates"]
        if Path(path, "reference").is_dir():
            self._reference = self._frozen(load_model(str(Path(path, "reference")), _DTYPES[self._config.dtype]))

    def ping(self) -> int:
        """The rank, as a sign of life."""
        return self._rank

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> PolicyWithCritic:
        return self._engine.module

    def _build(self) -> tuple[Any, PlainClip | None]:
        policy = PolicyWithCritic(
            load_model(self._config.model_path, _DTYPES[self._config.dtype]),
            self._critic.backbone if self._critic else "detached",
        ).train()
        return build_engine(policy, self._config)

    def _keep(self) -> Keep:
        needs_all = self._critic is not None or self._config.loss.kl.kind == "reference"
        return Keep.ALL if needs_all else Keep.CREDITED

    def _minibatches(self, credited: Sequence[CreditedTrajectory]) -> list[list[tuple[PackedRow, Tensor | None]]]:
        """This rank's rows of each minibatch, with their reference log-probabilities; none where nothing is taught."""
        parts = [items_to_train(part, self._keep()) for part in split_groups(credited, self._config.minibatches)]
        return [
            [(row, self._reference_logprobs(row)) for row in self._share(items)] if _can_teach(items) else []
            for items in parts
        ]

    def _share(self, items: Sequence[PackItem]) -> list[PackedRow]:
        return pack(items, self._config.pack_tokens, self._ranks)[self._rank]

    def _reinforce(self, row: PackedRow, reference: Tensor | None, scale: BatchScale, minibatches: int) -> LossStats:
        """Accumulate a row's gradient. Its loss is a share of the whole batch's; a step sees one minibatch of it."""
        outputs: RowOutputs = self._engine(row)
        credit = Credit(row.behaviour, row.advantages, row.value_targets, reference)
        coef = self._config.loss.value_coef if self._critic else 0.0
        row_loss = reinforcement_loss(
            outputs.logprobs, outputs.values, outputs.entropies, credit, scale, self._config.loss, value_coef=coef
        )
        self._backward(row_loss.loss * minibatches)
        return row_loss.stats

    def _reinforcement_step(self) -> tuple[float, float]:
        """Apply the gradient; gives the rate of the policy and the gradient's norm."""
        lr = self._rate(self._config.optimiser.lr)
        norm = self._step(lr, self._rate(self._critic.lr) if self._critic else lr)
        self._updates += 1
        return lr, norm

    def _imitate(self, row: PackedRow, scale: BatchScale) -> float:
        outputs: RowOutputs = self._engine(row)
        loss = imitation_loss(outputs.logprobs, scale) + outputs.values.sum() * 0.0
        self._backward(loss)
        return float(loss.detach())

    def _backward(self, loss: Tensor) -> None:
        if not math.isfinite(float(loss.detach())):
            raise NonFinite(f"rank {self._rank}: loss {float(loss.detach())}; the weights are as they were")
        self._engine.backward(loss * self._ranks)

    def _step(self, lr: float, critic_lr: float) -> float:
        for group, rate in zip(self._engine.basic_optimizer.param_groups, (lr, critic_lr), strict=True):
            group["lr"] = rate
        self._engine.step()
        norm = self._clip.norm if self._clip is not None else float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise NonFinite(f"rank {self._rank}: gradient norm {norm} after the step; restart from the last checkpoint")
        return norm

    def _rate(self, lr: float) -> float:
        warmup = self._config.optimiser.warmup_steps
        return lr * min(1.0, (self._updates + 1) / warmup) if warmup else lr

    def _read(self, row: PackedRow) -> RowOutputs:
        with torch.no_grad():
            return self._engine(row)

    def _reference_logprobs(self, row: PackedRow) -> Tensor | None:
        if self._config.loss.kl.kind == "none":
            return None
        if self._reference is None:
            raise RuntimeError("reference policy: not frozen yet; call begin_reinforcement() before the first update")
        with torch.no_grad():
            return self._reference(row).logprobs

    def _freeze_reference(self) -> None:
        model = load_model(self._config.model_path, _DTYPES[self._config.dtype])
        own = dict(model.named_parameters())
        for name, tensor in self.state_dict_iter():
            own[name].data.copy_(tensor)
        self._reference = self._frozen(model)

    @staticmethod
    def _frozen(model: Any) -> PolicyWithCritic:
        return PolicyWithCritic(model).eval().requires_grad_(False)


def batch_scale(credited: Sequence[CreditedTrajectory]) -> BatchScale:
    """Count what the whole batch has credit for; the same on every rank."""
    tokens = sum(
        len(step.action_ids)
        for one in credited
        for step, advantage in zip(one.scored.trajectory.steps, one.advantages, strict=True)
        if advantage is not None
    )
    return BatchScale(tokens, sum(map(_targets, credited)))


def _targets(credited: CreditedTrajectory) -> int:
    """States of a trajectory with a value target."""
    if credited.tokens is None:
        return sum(number is not None for number in credited.returns)
    return sum(len(numbers) for numbers in credited.tokens.returns if numbers is not None)


def _can_teach(items: Sequence[PackItem]) -> bool:
    return any(advantage != 0.0 for item in items for advantage in item.advantages)


def _with_ties(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face wants tied names in the state dict before it drops them itself."""
    ties = (model.all_tied_weights_keys or {}).items()
    return {**weights, **{alias: weights[source] for alias, source in ties if source in weights}}


def _without_actions(item: PackItem) -> PackItem:
    end = item.value_at[-1] + 1
    return PackItem(item.index, item.token_ids[:end], (), (), (), item.value_at, item.value_targets)


def _by_item(outputs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, tuple[float, ...]]:
    gathered: dict[int, list[float]] = {}
    for items, numbers in outputs:
        for item, number in zip(items.tolist(), numbers.tolist(), strict=True):
            gathered.setdefault(item, []).append(number)
    return {item: tuple(numbers) for item, numbers in gathered.items() if item != IDLE}
