"""Settings of the learner: losses, optimiser, ranks and the supervised warm start; those of credit pass through.

Owns pydantic models only; every variant is a discriminated union by `kind`. Loads no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from learner.credit.config import CreditConfig, CriticConfig, ProgressTableConfig, StepGaeConfig, ValueHeadConfig

__all__ = [
    "CreditConfig",
    "CriticConfig",
    "KlConfig",
    "LearnerConfig",
    "LossConfig",
    "NoKl",
    "OptimiserConfig",
    "ProgressTableConfig",
    "ReferenceKl",
    "SftConfig",
    "StepGaeConfig",
    "ValueHeadConfig",
]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimiserConfig(_Settings):
    """AdamW on float32 master weights."""

    lr: float = Field(default=1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the rate rises linearly from lr / warmup_steps to lr."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global L2 norm to which the gradient is clipped."""


class NoKl(_Settings):
    """No reference policy: no second copy, no extra forward pass."""

    kind: Literal["none"] = "none"


class ReferenceKl(_Settings):
    """KL to the frozen policy from which reinforcement learning started; costs a second copy and a forward pass."""

    kind: Literal["reference"] = "reference"
    coef: float = Field(default=0.01, gt=0)


KlConfig = Annotated[NoKl | ReferenceKl, Field(discriminator="kind")]


class LossConfig(_Settings):
    """Clipped policy objective, value loss and KL term."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.28, gt=0)
    kl: KlConfig = NoKl()
    value_coef: float = Field(default=0.5, ge=0)
    """Weight of the value loss; used only where the critic is a value head."""
    importance_cap: float = Field(default=5.0, gt=1)
    """Largest importance ratio that still has a gradient, whatever the sign of the advantage."""


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
    threads: int = Field(default=2, ge=1)
    """OpenMP threads of each rank."""
    seed: int = 0
    deadline_seconds: float = Field(default=1800.0, gt=0)
    """Longest wait for one call to a rank."""
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    sft: SftConfig = SftConfig()
