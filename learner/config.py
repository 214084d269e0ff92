"""Settings of the learner: credit, optimiser, ranks and the supervised warm start; the objective has its own.

Owns pydantic models only; every variant is a discriminated union by `kind`. Loads no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.objective.config import LossConfig, NoCorrection


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


class ValueHeadConfig(_Settings):
    """V(s) is a linear read-out of the policy's hidden state at the last token of s."""

    kind: Literal["value_head"] = "value_head"
    backbone: Literal["detached", "shared"] = "detached"
    """`shared` lets the value loss train the policy's layers; `detached` trains the read-out alone."""
    lr: float = Field(default=1e-3, gt=0)
    """Of the read-out, which starts from zero and must follow a moving policy."""
    coef: float = Field(default=0.5, gt=0)
    """Weight of the value loss beside the policy's."""
    clip: float | None = Field(default=None, gt=0)
    """How far a value may move in one update before that is no longer rewarded, in units of reward; None: any way."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimiser steps at the start in which the read-out alone learns and the policy stays as it is."""


class ProgressTableConfig(_Settings):
    """V(s) is a table over what the task's ground truth knows of s; needs no forward pass."""

    kind: Literal["progress_table"] = "progress_table"
    max_steps_taken: int = Field(default=6, ge=0)
    """Steps taken before s are told apart up to this many."""
    prior_visits: float = Field(default=4.0, gt=0)
    """How many visits the coarser mean counts for in a cell."""
    decay: float = Field(default=0.7, ge=0, le=1)
    """Weight of all earlier batches each time a new one arrives: the policy that earned them has moved on."""


CriticConfig = Annotated[ValueHeadConfig | ProgressTableConfig, Field(discriminator="kind")]


class StepGaeConfig(_Settings):
    """Generalised advantage estimation over steps, whitened over the steps of the batch."""

    kind: Literal["step_gae"] = "step_gae"
    gamma: float = Field(default=0.95, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    critic: CriticConfig = ProgressTableConfig()


class GroupStepConfig(_Settings):
    """Discounted step returns, normalised over the group's steps of the same index."""

    kind: Literal["group_step"] = "group_step"
    gamma: float = Field(default=0.95, ge=0, le=1)
    min_std: float = Field(default=0.1, gt=0)
    """Floor of the divisor, in units of reward: a group that hardly differs is not blown up."""


class GroupOutcomeConfig(_Settings):
    """One number per trajectory: solved or not, normalised over the group. The baseline to compare with."""

    kind: Literal["group_outcome"] = "group_outcome"
    min_std: float = Field(default=0.1, gt=0)


class ReinforceConfig(_Settings):
    """Discounted step returns, whitened over the steps of the batch."""

    kind: Literal["reinforce"] = "reinforce"
    gamma: float = Field(default=0.95, ge=0, le=1)


CreditConfig = Annotated[
    StepGaeConfig | GroupStepConfig | GroupOutcomeConfig | ReinforceConfig, Field(discriminator="kind")
]


class SftConfig(_Settings):
    """Supervised warm start on demonstrations."""

    lr: float = Field(default=2e-4, gt=0)
    batch_trajectories: int = Field(default=4, ge=1)
    epochs: int = Field(default=1, ge=1)
    demonstrations: int = Field(default=288, ge=0)
    noise: float = Field(default=0.4, ge=0, le=1)
    """Share of steps that are preceded by a mistake: expert trajectories are suboptimal."""


class LearnerConfig(_Settings):
    """The policy, its ranks and how they step."""

    model_path: str
    """Directory in Hugging Face format."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the weights in forward and backward; master weights are float32 in either case."""
    ranks: int = Field(default=1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 1
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
