"""Settings of the learner: optimiser, ranks and the supervised warm start; credit and the objective have their own.

Owns pydantic models only; every variant is a discriminated union by `kind`. Loads no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from learner.credit.config import CreditConfig, CriticConfig, ProgressTableConfig, StepGaeConfig, ValueHeadConfig
from learner.objective.config import LossConfig, NoCorrection

__all__ = [
    "CreditConfig",
    "CriticConfig",
    "FullTraining",
    "LearnerConfig",
    "LoraTraining",
    "LossConfig",
    "OptimiserConfig",
    "ProgressTableConfig",
    "SftConfig",
    "StepGaeConfig",
    "ValueHeadConfig",
]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConstantSchedule(_Settings):
    """The rate stays at its peak after the warm-up."""

    kind: Literal["constant"] = "constant"


class LinearSchedule(_Settings):
    """The rate falls in a straight line."""

    kind: Literal["linear"] = "linear"
    steps: int = Field(ge=1)
    """Optimiser steps from the first one, warm-up included, until the final rate."""
    final: float = Field(default=0.0, ge=0, lt=1)
    """Share of the peak that is left then."""


class CosineSchedule(_Settings):
    """The rate falls along half a cosine."""

    kind: Literal["cosine"] = "cosine"
    steps: int = Field(ge=1)
    """Optimiser steps from the first one, warm-up included, until the final rate."""
    final: float = Field(default=0.0, ge=0, lt=1)
    """Share of the peak that is left then."""


ScheduleConfig = Annotated[ConstantSchedule | LinearSchedule | CosineSchedule, Field(discriminator="kind")]


class OptimiserConfig(_Settings):
    """AdamW on float32 master weights."""

    lr: float = Field(default=1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    """Optimiser steps over which the rate rises linearly from lr / warmup_steps to lr."""
    schedule: ScheduleConfig = ConstantSchedule()
    """After the warm-up; of the policy and, in proportion to its own rate, of the critic."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global L2 norm to which the gradient is clipped."""
    skip_grad_norm: float | None = Field(default=None, gt=0)
    """A reinforcement step whose gradient has a larger norm is left out, and counted; None: no bound."""

    @model_validator(mode="after")
    def _falls_after_the_rise(self) -> Self:
        if not isinstance(self.schedule, ConstantSchedule) and self.schedule.steps <= self.warmup_steps:
            raise ValueError(
                f"schedule.steps is {self.schedule.steps}, expected more than warmup_steps, which is "
                f"{self.warmup_steps}: the rate would never fall; raise schedule.steps"
            )
        return self

    @model_validator(mode="after")
    def _clips_before_it_skips(self) -> Self:
        if self.skip_grad_norm is not None and self.skip_grad_norm <= self.max_grad_norm:
            raise ValueError(
                f"skip_grad_norm is {self.skip_grad_norm:g}, expected more than max_grad_norm, which is "
                f"{self.max_grad_norm:g}: no gradient would ever be clipped; raise skip_grad_norm"
            )
        return self


class SftConfig(_Settings):
    """Supervised warm start on demonstrations."""

    lr: float = Field(default=2e-4, gt=0)
    batch_trajectories: int = Field(default=4, ge=1)
    epochs: int = Field(default=1, ge=1)
    demonstrations: int = Field(default=288, ge=0)
    noise: float = Field(default=0.4, ge=0, le=1)
    """Share of steps that are preceded by a mistake: expert trajectories are suboptimal."""


class KeepActivations(_Settings):
    """What the forward pass of a row computed stays until its backward pass has used it."""

    kind: Literal["keep"] = "keep"


class RecomputeActivations(_Settings):
    """Each layer keeps its input alone and is computed again in the backward pass: less memory, more time."""

    kind: Literal["recompute"] = "recompute"


ActivationsConfig = Annotated[KeepActivations | RecomputeActivations, Field(discriminator="kind")]


class SegmentAttention(_Settings):
    """A call of PyTorch's `scaled_dot_product_attention` for each segment of a row: the right one on a CPU, and on any
    device for rows of few segments."""

    kind: Literal["segments"] = "segments"


class FlexAttention(_Settings):
    """One compiled kernel for the whole row, for GPUs and rows of many segments; PyTorch has no backward pass of it on
    a CPU."""

    kind: Literal["flex"] = "flex"


AttentionConfig = Annotated[SegmentAttention | FlexAttention, Field(discriminator="kind")]


class NoOffload(_Settings):
    """Everything stays where the model is computed."""

    kind: Literal["none"] = "none"


class OffloadOptimiser(_Settings):
    """Master weights and moments are in host memory, and AdamW steps there."""

    kind: Literal["optimiser"] = "optimiser"


class OffloadOptimiserAndParameters(_Settings):
    """As `optimiser`; and each rank's share of the weights waits in host memory until a layer needs it."""

    kind: Literal["optimiser_and_parameters"] = "optimiser_and_parameters"


OffloadConfig = Annotated[NoOffload | OffloadOptimiser | OffloadOptimiserAndParameters, Field(discriminator="kind")]


class FullTraining(_Settings):
    """Every weight is trained."""

    kind: Literal["full"] = "full"


LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The linear layers of a decoder layer, as Llama and Qwen name them."""


class LoraTraining(_Settings):
    """Adapters are trained beside frozen weights: W + alpha/rank · B·A (Hu et al. 2022, §4.1)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1)
    """Rows of A and columns of B."""
    alpha: int = Field(default=32, ge=1)
    """Together with the rank the weight of an adapter, alpha / rank."""
    targets: tuple[LinearName, ...] = Field(default=get_args(LinearName), min_length=1)
    """Layers that have an adapter."""

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[LinearName, ...]) -> tuple[LinearName, ...]:
        twice = sorted({name for name in targets if targets.count(name) > 1})
        if twice:
            raise ValueError(f"targets: {twice} more than once, expected each layer once; leave the others out")
        return targets


TrainedConfig = Annotated[FullTraining | LoraTraining, Field(discriminator="kind")]


class LearnerConfig(_Settings):
    """The policy, its ranks and how they step."""

    model_path: str
    """Directory in Hugging Face format."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the weights in forward and backward; master weights are float32 in either case."""
    trained: TrainedConfig = FullTraining()
    """Which weights of the model change; the value head always does."""
    ranks: int = Field(default=1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 1
    attention: AttentionConfig = SegmentAttention()
    activations: ActivationsConfig = KeepActivations()
    offload: OffloadConfig = NoOffload()
    """Of what ZeRO partitions: the optimiser's state from stage 1 on, the weights at stage 3."""
    pack_tokens: int = Field(default=1024, ge=1)
    """Tokens of one packed row, which is one micro-batch. A longer trajectory has a row to itself."""
    passes: int = Field(default=1, ge=1)
    """Times that each batch is gone through."""
    minibatches: int = Field(default=1, ge=1)
    """Optimiser steps in one pass, each on its share of the groups; at most as many as there are groups."""
    stop_kl: float | None = Field(default=None, gt=0)
    """No further pass is made once the policy is farther than this from the one that ratios compare with, in nats a
    token (k3), as measured during the pass; None: every pass is made."""
    threads: int = Field(default=2, ge=1)
    """OpenMP threads of each rank."""
    seed: int = 0
    deadline_seconds: float = Field(default=1800.0, gt=0)
    """Longest wait for one call to a rank."""
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    sft: SftConfig = SftConfig()

    @model_validator(mode="after")
    def _offloads_what_is_partitioned(self) -> Self:
        least = {"none": 0, "optimiser": 1, "optimiser_and_parameters": 3}[self.offload.kind]
        if self.zero_stage < least:
            raise ValueError(
                f"offload.kind is {self.offload.kind} and zero_stage is {self.zero_stage}, expected {least} or more: "
                "only what ZeRO partitions can be offloaded; raise zero_stage or set offload.kind to none"
            )
        return self

    @model_validator(mode="after")
    def _another_pass_to_leave_out(self) -> Self:
        if self.stop_kl is not None and self.passes == 1:
            raise ValueError(
                "stop_kl is set and passes is 1: there is no pass to leave out; raise passes or drop stop_kl"
            )
        return self

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps that an update makes where every minibatch has credit."""
        return self.passes * self.minibatches

    @property
    def recomputes_old(self) -> bool:
        """Whether ratios compare with log-probabilities of the learner's own, and those take a forward pass.

        Where an update is one step, the old policy is the current one.
        """
        return not isinstance(self.loss.correction, NoCorrection) and self.steps_per_update > 1
