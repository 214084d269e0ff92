"""Settings of the critics: where an estimator gets the value of a state from.

Owns pydantic models only; those of the estimators that read them are in `learner.credit.config`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]


class ValueHeadConfig(_Settings):
    """V(s) is a linear read-out of a hidden state at the last token of s."""

    kind: Literal["value_head"] = "value_head"
    backbone: Literal["detached", "shared", "separate"] = "detached"
    """`shared` lets the value loss train the policy's layers; `detached` trains the read-out alone; `separate` reads a
    second copy of the layers, which starts as the policy's and which the value loss alone trains."""
    backbone_lr: float | None = Field(default=None, gt=0)
    """Of the separate layers; None: `learner.optimiser.lr`, that of the policy."""
    lr: float = Field(default=1e-3, gt=0)
    """Of the read-out, which starts from zero and must follow a moving policy."""
    coef: float = Field(default=0.5, gt=0)
    """Weight of the value loss beside the policy's."""
    clip: float | None = Field(default=None, gt=0)
    """How far a value may move in one update before that is no longer rewarded, in units of reward; None: any way."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimiser steps at the start in which the critic alone learns and the policy stays as it is."""

    @model_validator(mode="after")
    def _a_rate_for_layers_of_its_own(self) -> Self:
        if self.backbone_lr is not None and self.backbone != "separate":
            raise ValueError(
                f"backbone_lr is {self.backbone_lr:g} and backbone is {self.backbone}, expected separate: no other "
                "critic has layers of its own; drop backbone_lr or set backbone to separate"
            )
        return self


class ProgressTableConfig(_Settings):
    """V(s) is a table over what the task's ground truth knows of s; needs no forward pass."""

    kind: Literal["progress_table"] = "progress_table"
    max_steps_taken: int = Field(default=6, ge=0)
    """Steps taken before s are told apart up to this many."""
    prior_visits: float = Field(default=4.0, gt=0)
    """How many visits the coarser mean counts for in a cell."""
    decay: Share = 0.7
    """Weight of all earlier batches each time a new one arrives: the policy that earned them has moved on."""


CriticConfig = Annotated[ValueHeadConfig | ProgressTableConfig, Field(discriminator="kind")]


class UtteranceCriticConfig(_Settings):
    """Q(s, a) and V(s) are twin networks on hidden states of the policy, learned by temporal differences with target
    networks from a replay buffer."""

    kind: Literal["utterance"] = "utterance"
    hidden: int = Field(default=64, ge=1)
    """Units of the one hidden layer of each network."""
    lr: float = Field(default=1e-3, gt=0)
    """Of Adam."""
    steps: int = Field(default=50, ge=1)
    """Optimiser steps of the critic for each batch of trajectories."""
    batch_steps: int = Field(default=64, ge=1)
    """Steps of trajectories that each of them draws from the buffer."""
    tau: float = Field(default=0.1, gt=0, le=1)
    """Share of the way that the target networks go towards the networks after each step."""
    capacity: int = Field(default=1024, ge=1)
    """Steps of trajectories in the buffer; the oldest leave."""
    seed: int = Field(default=0, ge=0)
    """Of the networks at the start and of what is drawn."""
