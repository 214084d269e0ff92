"""Settings of credit: one variant an estimator, chosen by `kind`, and what all of them share.

Owns pydantic models only. docs/credit.md says which estimator needs what, and when to use it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]
Floor = Annotated[float, Field(ge=0)]


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


class NoWhitening(_Settings):
    """Advantages stay in units of reward."""

    kind: Literal["none"] = "none"


class WhitenSteps(_Settings):
    """Over the group's steps of the same index; a step without peers is compared with all steps of its group."""

    kind: Literal["steps"] = "steps"
    min_std: Floor = 0.1
    """Floor of the divisor, in units of reward: a group that hardly differs is not blown up."""


class WhitenGroup(_Settings):
    """Over the group."""

    kind: Literal["group"] = "group"
    min_std: Floor = 0.1
    """Floor of the divisor, in units of reward."""


class WhitenBatch(_Settings):
    """Over the batch."""

    kind: Literal["batch"] = "batch"
    min_std: Floor = 0.0
    """Floor of the divisor, in units of reward."""


Whitening = Annotated[NoWhitening | WhitenSteps | WhitenGroup | WhitenBatch, Field(discriminator="kind")]


class FilterUniform(_Settings):
    """A group that teaches nothing has no credit, and is counted."""

    kind: Literal["filter"] = "filter"


class ResampleUniform(_Settings):
    """As `filter`; and the loop plays another task in the place of each such group."""

    kind: Literal["resample"] = "resample"
    rounds: int = Field(default=1, ge=1)
    """How often at most: a policy that solves everything, or nothing, would be asked for ever."""


UniformGroups = Annotated[FilterUniform | ResampleUniform, Field(discriminator="kind")]


class Credit(_Settings):
    """What every estimator has."""

    whiten: Whitening = NoWhitening()
    """Over whatever the estimator gives a number to: tokens, steps or trajectories."""
    clip: float | None = Field(default=None, gt=0)
    """Largest |advantage|, after whitening; None: unbounded."""
    outcome_weight: float = Field(default=0.0, ge=0)
    """ω in Â + ω·Â_outcome, where Â_outcome is the trajectory's outcome normalised over its group; 0: steps alone."""
    outcome_min_std: Floor = 0.1
    """Floor of the divisor of Â_outcome."""

    relative: ClassVar[bool] = False
    """Whether the numbers before whitening are differences within a group, so that all zero means no difference."""


class OverGroup(Credit):
    """What the estimators have that compare the trajectories of one group."""

    uniform: UniformGroups = FilterUniform()
    """What becomes of a group in which nothing differs."""


class Relative(OverGroup):
    """What the estimators have whose numbers are differences within a group."""

    relative: ClassVar[bool] = True


class StepGaeConfig(Credit):
    """Generalised advantage estimation over steps."""

    kind: Literal["step_gae"] = "step_gae"
    gamma: Share = 0.95
    """Of a step."""
    lam: Share = 0.95
    """Of a step."""
    critic: CriticConfig = ProgressTableConfig()
    whiten: Whitening = WhitenBatch()


class TokenGaeConfig(Credit):
    """Generalised advantage estimation over action tokens, which skips observation tokens."""

    kind: Literal["token_gae_masked"] = "token_gae_masked"
    gamma: Share = 1.0
    """Of an action token."""
    lam: Share = 0.95
    """Of an action token."""
    critic: ValueHeadConfig = ValueHeadConfig()
    whiten: Whitening = WhitenBatch()


class BilevelGaeConfig(Credit):
    """Generalised advantage estimation over steps, and within each step over its tokens."""

    kind: Literal["bilevel_gae"] = "bilevel_gae"
    gamma: Share = 0.95
    """Of a step."""
    lam: Share = 1.0
    """Of a step."""
    token_gamma: Share = 1.0
    """Of an action token, within its step."""
    token_lam: Share = 1.0
    """Of an action token, within its step."""
    critic: ValueHeadConfig = ValueHeadConfig()
    whiten: Whitening = WhitenBatch()


class StepReturnsConfig(OverGroup):
    """Discounted step returns, normalised over the group's steps of the same index."""

    kind: Literal["step_returns"] = "step_returns"
    gamma: Share = 0.95
    """Of a step."""
    whiten: Whitening = WhitenSteps()


class StepRlooConfig(Relative):
    """Discounted step returns, less the mean of the other trajectories at the same step index."""

    kind: Literal["step_rloo"] = "step_rloo"
    gamma: Share = 0.95
    """Of a step."""


class StepReinforcePpConfig(Credit):
    """Discounted step returns, whitened over the steps of the batch."""

    kind: Literal["step_reinforce_pp"] = "step_reinforce_pp"
    gamma: Share = 0.95
    """Of a step."""
    whiten: Whitening = WhitenBatch()


class GigpoConfig(Relative):
    """The trajectory's return over its group, and the step's return over the steps that saw the same."""

    kind: Literal["gigpo"] = "gigpo"
    gamma: Share = 0.95
    """Of a step."""
    step_weight: float = Field(default=1.0, ge=0)
    """ω: how much the comparison at anchor states counts."""
    similarity: float = Field(default=0.95, gt=0, le=1)
    """Least share of tokens in common for a step whose observation nobody else saw to be compared with another; 1:
    never."""
    min_std: Floor = 0.1
    """Floor of both divisors, in units of reward."""


class MtGrpoConfig(Relative):
    """The trajectory's outcome over its group, and the step's own reward over the group's steps of its index."""

    kind: Literal["mt_grpo"] = "mt_grpo"
    turn_weight: float = Field(default=1.0, ge=0)
    """λ: how much a step's own reward counts."""
    min_std: Floor = 0.1
    """Floor of both divisors."""


class TreeConfig(Relative):
    """The trajectory's return over its tree and over its group; what trajectories share has the mean of both."""

    kind: Literal["tree"] = "tree"
    gamma: Share = 1.0
    """Of a step."""
    min_std: Floor = 0.1
    """Floor of both divisors, in units of reward."""


class MonteCarloConfig(Credit):
    """What a step gained, where the value of a state is the mean return of continuations from it."""

    kind: Literal["monte_carlo"] = "monte_carlo"
    gamma: Share = 1.0
    """Of a step."""
    continuations: int = Field(default=9, ge=1)
    """k, from each state."""
    whiten: Whitening = WhitenBatch()


class LeaveOneOutConfig(Credit):
    """What the outcome loses without the step, as replays in the task's own world told."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    whiten: Whitening = WhitenBatch()


class PpoOutcomeConfig(Credit):
    """The outcome alone, through a critic over action tokens: PPO without step rewards."""

    kind: Literal["ppo_outcome"] = "ppo_outcome"
    gamma: Share = 1.0
    """Of an action token."""
    lam: Share = 0.95
    """Of an action token."""
    critic: ValueHeadConfig = ValueHeadConfig()
    whiten: Whitening = WhitenBatch()


class GrpoConfig(OverGroup):
    """The outcome alone, normalised over the group."""

    kind: Literal["grpo"] = "grpo"
    whiten: Whitening = WhitenGroup()


class RlooConfig(Relative):
    """The outcome alone, less the mean of the other trajectories of the group."""

    kind: Literal["rloo"] = "rloo"


class ReinforcePpConfig(Credit):
    """The outcome alone, whitened over the trajectories of the batch."""

    kind: Literal["reinforce_pp"] = "reinforce_pp"
    whiten: Whitening = WhitenBatch()


class RftConfig(Credit):
    """Imitate the trajectories that solved their task; the others have no credit."""

    kind: Literal["rft"] = "rft"


class EtoConfig(OverGroup):
    """Prefer what did best in its group to what did worse: DPO on pairs of whole trajectories."""

    kind: Literal["eto"] = "eto"
    beta: float = Field(default=0.1, gt=0)
    """β, per nat of margin over the reference: the larger, the sooner a pair counts as told apart."""

    @model_validator(mode="after")
    def _takes_no_advantages(self) -> Self:
        given = [name for name in Credit.model_fields if getattr(self, name) != Credit.model_fields[name].default]
        if given:
            raise ValueError(
                f"eto: {', '.join(given)} set; expected the default: pairs are compared, and no advantage is whitened, "
                "clipped or mixed; drop them, or choose another credit.kind"
            )
        return self


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


class ArcherConfig(Credit):
    """What an utterance-level critic says of the action beyond what it says of the state."""

    kind: Literal["archer"] = "archer"
    gamma: Share = 0.95
    """Of a step."""
    critic: UtteranceCriticConfig = UtteranceCriticConfig()


CreditConfig = Annotated[
    StepGaeConfig
    | TokenGaeConfig
    | BilevelGaeConfig
    | StepReturnsConfig
    | StepRlooConfig
    | StepReinforcePpConfig
    | GigpoConfig
    | MtGrpoConfig
    | TreeConfig
    | MonteCarloConfig
    | LeaveOneOutConfig
    | PpoOutcomeConfig
    | GrpoConfig
    | RlooConfig
    | ReinforcePpConfig
    | RftConfig
    | EtoConfig
    | ArcherConfig,
    Field(discriminator="kind"),
]

TOKEN_LEVEL = (TokenGaeConfig, BilevelGaeConfig, PpoOutcomeConfig)
"""Estimators that give every action token a number of its own."""
TRAJECTORY_LEVEL = (GrpoConfig, RlooConfig, ReinforcePpConfig, RftConfig, EtoConfig)
"""Estimators that give a trajectory one number."""


def value_head_of(credit: Any) -> ValueHeadConfig | None:
    """The value head that an estimator reads, or None."""
    critic = getattr(credit, "critic", None)
    return critic if isinstance(critic, ValueHeadConfig) else None


def resampling_rounds(credit: Any) -> int:
    """How often other tasks are played in the place of groups that teach nothing; 0: never."""
    uniform = getattr(credit, "uniform", None)
    return uniform.rounds if isinstance(uniform, ResampleUniform) else 0
