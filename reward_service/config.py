"""Settings of the reward service: how signals become one reward, and how the service is run.

Owns the shaping variants; each is a complete, named recipe, chosen by `kind`. Their mathematics is in `shaping`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

KEYS_VARIABLE = "STEPTOOL_REWARD_KEYS"
KEYS_FILE_VARIABLE = f"{KEYS_VARIABLE}_FILE"
"""The service's keys come from one of these two variables of the environment."""

Weight = Annotated[float, Field(ge=0, le=1000)]
OutcomeWeight = Annotated[float, Field(gt=0, le=1000)]
"""Never zero: a final reward with the weight 0 trains nothing (the published code multiplies it by 0)."""


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LinearShaping(Settings):
    """Weighted signals, less a price for every step: the default. A step that changes nothing costs."""

    kind: Literal["linear"] = "linear"
    success: Weight = 0.0
    contribution: Weight = 0.6
    step_cost: Weight = 0.1
    """Taken from every step but the answer."""
    solved: OutcomeWeight = 1.0
    wrong_cost: Weight = 0.0
    """Taken at the last step of an unsolved trajectory."""

    @property
    def needs_distance(self) -> bool:
        """Whether tasks must have an exact distance to their solution."""
        return self.contribution > 0


class PaperShaping(Settings):
    """StepTool's own shaping: the mean of success and contribution, then IsSolved. It pays for stalling."""

    kind: Literal["paper"] = "paper"

    @property
    def needs_distance(self) -> bool:
        """Contribution is half of every step."""
        return True


class PotentialShaping(Settings):
    """Differences of a potential, the negated remaining distance (Ng, Harada & Russell, 1999)."""

    kind: Literal["potential"] = "potential"
    scale: OutcomeWeight = 0.6
    """Reward for one call less to go."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Must be the learner's discount, or the sum does not telescope."""
    step_cost: Weight = 0.1
    solved: OutcomeWeight = 1.0

    @property
    def needs_distance(self) -> bool:
        """It is the potential."""
        return True


class OutcomeShaping(Settings):
    """One reward at the end and none before: the baseline that trajectory-level trainers use."""

    kind: Literal["outcome_only"] = "outcome_only"
    solved: OutcomeWeight = 1.0

    @property
    def needs_distance(self) -> bool:
        """The outcome is all that counts."""
        return False


Shaping = Annotated[
    LinearShaping | PaperShaping | PotentialShaping | OutcomeShaping,
    Field(discriminator="kind"),
]


class RewardConfig(Settings):
    """Everything that the reward service is started with."""

    shaping: Shaping = LinearShaping()
    replicas: PositiveInt = 1
    cpus_per_replica: PositiveFloat = 0.1
    """Cores that Ray reserves for one replica; scoring by rules takes well under a millisecond a trajectory."""
    start_seconds: PositiveFloat = 120.0
    """Deadline for the service to answer after its start."""
