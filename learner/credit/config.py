"""Settings of credit: one variant an estimator, chosen by `kind`, and what all of them share.

Owns pydantic models only. docs/credit.md says which estimator needs what, and when to use it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.credit.credited import StateAt
from learner.credit.critic_config import (
    CriticConfig,
    ProgressTableConfig,
    Share,
    UtteranceCriticConfig,
    ValueHeadConfig,
)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Floor = Annotated[float, Field(ge=0)]
Level = Literal["token", "step", "trajectory"]
"""What an estimator gives a number of its own."""
StepRewards = Literal["all", "all but the last", "none"]
"""Those of a trajectory that an estimator reads."""


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
    level: ClassVar[Level] = "step"
    states: ClassVar[StateAt | None] = None
    """Where the estimator reads values, a critic's or those of continuations; None: nowhere."""
    needs_outcome: ClassVar[bool] = False
    """Whether it can make nothing of an episode that ended by itself and whose outcome nobody knows."""
    step_rewards: ClassVar[StepRewards] = "all"

    def compares_within_groups_alone(self) -> bool:
        """Whether a trajectory that is alone in its group can have no credit: nobody is there to compare it with."""
        by_group = isinstance(self.whiten, WhitenSteps | WhitenGroup)
        return self.relative or (self.level == "trajectory" and by_group)


class OnOutcome(Credit):
    """What the estimators have that see the outcome alone and give a trajectory one number."""

    level: ClassVar[Level] = "trajectory"
    needs_outcome: ClassVar[bool] = True
    step_rewards: ClassVar[StepRewards] = "none"


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
    states: ClassVar[StateAt | None] = StateAt.STEPS
    gamma: Share = 0.95
    """Of a step."""
    lam: Share = 0.95
    """Of a step."""
    critic: CriticConfig = ProgressTableConfig()
    whiten: Whitening = WhitenBatch()


class TokenGaeConfig(Credit):
    """Generalised advantage estimation over action tokens, which skips observation tokens."""

    kind: Literal["token_gae_masked"] = "token_gae_masked"
    level: ClassVar[Level] = "token"
    states: ClassVar[StateAt | None] = StateAt.TOKENS
    gamma: Share = 1.0
    """Of an action token."""
    lam: Share = 0.95
    """Of an action token."""
    critic: ValueHeadConfig = ValueHeadConfig()
    whiten: Whitening = WhitenBatch()


class BilevelGaeConfig(Credit):
    """Generalised advantage estimation over steps, and within each step over its tokens."""

    kind: Literal["bilevel_gae"] = "bilevel_gae"
    level: ClassVar[Level] = "token"
    states: ClassVar[StateAt | None] = StateAt.TOKENS
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
    needs_outcome: ClassVar[bool] = True
    step_rewards: ClassVar[StepRewards] = "all but the last"
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
    states: ClassVar[StateAt | None] = StateAt.STEPS
    gamma: Share = 1.0
    """Of a step."""
    continuations: int = Field(default=9, ge=1)
    """k, from each state."""
    whiten: Whitening = WhitenBatch()


class LeaveOneOutConfig(Credit):
    """What the outcome loses without the step, as replays in the task's own world told."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    step_rewards: ClassVar[StepRewards] = "none"
    whiten: Whitening = WhitenBatch()


class PpoOutcomeConfig(Credit):
    """The outcome alone, through a critic over action tokens: PPO without step rewards."""

    kind: Literal["ppo_outcome"] = "ppo_outcome"
    level: ClassVar[Level] = "token"
    states: ClassVar[StateAt | None] = StateAt.TOKENS
    needs_outcome: ClassVar[bool] = True
    step_rewards: ClassVar[StepRewards] = "none"
    gamma: Share = 1.0
    """Of an action token."""
    lam: Share = 0.95
    """Of an action token."""
    critic: ValueHeadConfig = ValueHeadConfig()
    whiten: Whitening = WhitenBatch()


class GrpoConfig(OverGroup, OnOutcome):
    """The outcome alone, normalised over the group."""

    kind: Literal["grpo"] = "grpo"
    whiten: Whitening = WhitenGroup()


class RlooConfig(Relative, OnOutcome):
    """The outcome alone, less the mean of the other trajectories of the group."""

    kind: Literal["rloo"] = "rloo"


class ReinforcePpConfig(OnOutcome):
    """The outcome alone, whitened over the trajectories of the batch."""

    kind: Literal["reinforce_pp"] = "reinforce_pp"
    whiten: Whitening = WhitenBatch()


class RftConfig(OnOutcome):
    """Imitate the trajectories that solved their task; the others have no credit."""

    kind: Literal["rft"] = "rft"

    @model_validator(mode="after")
    def _imitates(self) -> Self:
        if not isinstance(self.whiten, NoWhitening):
            raise ValueError(
                f"rft: whiten.kind is {self.whiten.kind}, expected none: all that is imitated has the same advantage, "
                "which less its mean is zero; drop whiten, or choose reinforce_pp, which learns from failures too"
            )
        return self


class EtoConfig(OverGroup, OnOutcome):
    """Prefer what did best in its group to what did worse: DPO on pairs of whole trajectories."""

    kind: Literal["eto"] = "eto"
    beta: float = Field(default=0.1, gt=0)
    """β, per nat of margin over the reference: the larger, the sooner a pair counts as told apart."""

    def compares_within_groups_alone(self) -> bool:
        """Pairs are of one group."""
        return True

    @model_validator(mode="after")
    def _takes_no_advantages(self) -> Self:
        given = [name for name in Credit.model_fields if getattr(self, name) != Credit.model_fields[name].default]
        if given:
            raise ValueError(
                f"eto: {', '.join(given)} set; expected the default: pairs are compared, and no advantage is whitened, "
                "clipped or mixed; drop them, or choose another credit.kind"
            )
        return self


class ArcherConfig(Credit):
    """What an utterance-level critic says of the action beyond what it says of the state."""

    kind: Literal["archer"] = "archer"
    states: ClassVar[StateAt | None] = StateAt.UTTERANCES
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


def value_head_of(credit: Any) -> ValueHeadConfig | None:
    """The value head that an estimator reads, or None."""
    critic = getattr(credit, "critic", None)
    return critic if isinstance(critic, ValueHeadConfig) else None


def resampling_rounds(credit: Any) -> int:
    """How often other tasks are played in the place of groups that teach nothing; 0: never."""
    uniform = getattr(credit, "uniform", None)
    return uniform.rounds if isinstance(uniform, ResampleUniform) else 0
