"""Settings of the reward service: how signals become one reward, and how the service is run.

Owns the shaping variants; each is a complete, named recipe, chosen by `kind`. Their mathematics is in `shaping`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from reward_service.answers import NORMALISED, AnswerMatch
from reward_service.judge.config import JudgeConfig
from reward_service.learned.config import LearnedSignal, StepModelConfig
from reward_service.scaling import Scaled
from reward_service.store.config import NoStore, SqliteStore, StoreConfig

KEYS_VARIABLE = "STEPTOOL_REWARD_KEYS"
KEYS_FILE_VARIABLE = f"{KEYS_VARIABLE}_FILE"
"""The service's keys come from one of these two variables of the environment."""

SCORE_SECONDS = 50.0
"""Below the minute after which Serve and most callers give a request up: one late trajectory must not cost the others
their answers."""

Weight = Annotated[float, Field(ge=0, le=1000)]
SignedWeight = Annotated[float, Field(ge=-1000, le=1000)]
SignalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
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
    extra: dict[SignalName, SignedWeight] = {}
    """Weights of the signals in `signals.extra`."""

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


class StatusSuccess(Settings):
    """SuccCalling by the typed status of the call; for trajectories of others, by how its result reads."""

    kind: Literal["status"] = "status"


class DistanceContribution(Settings):
    """Contribution by the calls that are still needed, before and after; wants tasks with an exact distance."""

    kind: Literal["distance"] = "distance"


class OverlapContribution(Settings):
    """Contribution by the share of the result that came to stand in the final answer (the paper's rule)."""

    kind: Literal["overlap"] = "overlap"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.3


class LeaveOneOutContribution(Settings):
    """Contribution by replay in the task's own world: what becomes of the outcome without the call."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class NoisyOraclePlay(Settings):
    """Whoever goes on knows the way and errs: the toolset's demonstrator."""

    kind: Literal["noisy_oracle"] = "noisy_oracle"
    noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that an error stands before a step. Without errors every state that can be saved is worth 1."""


class RandomPlay(Settings):
    """Whoever goes on calls at random: the toolset's random policy."""

    kind: Literal["random"] = "random"


class MonteCarloContribution(Settings):
    """Contribution by play in the task's own world: how much oftener the task is solved from after the call."""

    kind: Literal["monte_carlo"] = "monte_carlo"
    continuations: Annotated[int, Field(ge=1, le=256)] = 16
    """Played from each state; the standard deviation of its value is at most 1 / (2 √continuations)."""
    policy: Annotated[NoisyOraclePlay | RandomPlay, Field(discriminator="kind")] = NoisyOraclePlay()
    max_steps: Annotated[int, Field(ge=1, le=64)] = 8
    """Turns of one continuation, its answer among them."""


Replayed = LeaveOneOutContribution | MonteCarloContribution
"""Kinds of contribution that play in a session of the task."""


class TargetSolved(Settings):
    """IsSolved by the ground truth: an answer, or a state."""

    kind: Literal["target"] = "target"
    answer: AnswerMatch = NORMALISED


class PluginSignal(Settings):
    """Measured by somebody else's code: an entry point of the group `steptool.signals`."""

    kind: Literal["plugin"] = "plugin"
    name: Annotated[str, Field(min_length=1, max_length=128)]
    settings: dict[str, JsonValue] = {}
    """Given to the entry point; part of the reward version."""


class JudgeSignal(Settings):
    """Measured by the judge that `rewards.judge` describes."""

    kind: Literal["judge"] = "judge"


ExtraSignal = Annotated[LearnedSignal | PluginSignal, Field(discriminator="kind")]

_PLACES = {"success": (0.0, 1.0), "contribution": (-1.0, 1.0), "solved": (0.0, 1.0)}
"""Range of each signal that the shapings know."""


class SignalsConfig(Settings):
    """How each signal is measured."""

    success: Annotated[StatusSuccess | JudgeSignal | LearnedSignal | PluginSignal, Field(discriminator="kind")] = (
        StatusSuccess()
    )
    contribution: Annotated[
        DistanceContribution | OverlapContribution | Replayed | JudgeSignal | LearnedSignal | PluginSignal,
        Field(discriminator="kind"),
    ] = DistanceContribution()
    solved: Annotated[TargetSolved | JudgeSignal | LearnedSignal | PluginSignal, Field(discriminator="kind")] = (
        TargetSolved()
    )
    extra: Annotated[dict[SignalName, ExtraSignal], Field(max_length=16)] = {}
    """More signals, by names of their own; `shaping.extra` of the linear shaping gives them weights."""

    @property
    def judged(self) -> frozenset[str]:
        """The places that a judge fills."""
        places = {"success": self.success, "contribution": self.contribution, "solved": self.solved}
        return frozenset(name for name, one in places.items() if isinstance(one, JudgeSignal))

    @property
    def replays(self) -> bool:
        """Whether tasks must be opened again to measure them."""
        return isinstance(self.contribution, Replayed)

    @property
    def learned(self) -> dict[str, LearnedSignal]:
        """What the step model measures, by name."""
        places = {"success": self.success, "contribution": self.contribution, "solved": self.solved, **self.extra}
        return {name: one for name, one in places.items() if isinstance(one, LearnedSignal)}

    @model_validator(mode="after")
    def _learned_signals_fit_their_places(self) -> Self:
        for name, signal in self.learned.items():
            low, high = _PLACES.get(name, signal.output.range)
            found = signal.output.range
            if found[0] < low or found[1] > high:
                raise ValueError(
                    f"signals.{name}: its output has the range {list(found)}, and the shapings expect one within "
                    f"{[low, high]}; use a sigmoid, clip it, or give the signal a name of its own in signals.extra"
                )
        return self

    @model_validator(mode="after")
    def _names_of_their_own(self) -> Self:
        taken = sorted({"success", "contribution", "solved", "step_cost", "wrong_cost"} & self.extra.keys())
        if taken:
            raise ValueError(f"signals.extra: the names {taken} are taken; choose others")
        return self


class RewardConfig(Scaled):
    """Everything that the reward service is started with."""

    shaping: Shaping = LinearShaping()
    signals: SignalsConfig = SignalsConfig()
    judge: JudgeConfig | None = None
    """Who measures the signals of the kind `judge`."""
    step_model: StepModelConfig | None = None
    """What measures the signals of the kind `learned`."""
    store: StoreConfig = NoStore()
    """Where scores and votes are kept, so that each is made once."""
    cpus_per_replica: PositiveFloat = 0.1
    """Cores that Ray reserves for one replica; scoring by rules takes well under a millisecond a trajectory."""
    start_seconds: PositiveFloat = 120.0
    """Deadline for the service to answer after its start."""
    score_seconds: PositiveFloat = SCORE_SECONDS
    """Deadline for the measurements of one request that names none itself."""

    @model_validator(mode="after")
    def _a_judge_where_one_is_asked(self) -> Self:
        if bool(self.signals.judged) != (self.judge is not None):
            found = f"signals {sorted(self.signals.judged)} of the kind judge, and {'a' if self.judge else 'no'} judge"
            raise ValueError(f"rewards: found {found}; describe one in `judge` where a signal asks it, and only there")
        return self

    @model_validator(mode="after")
    def _a_step_model_where_one_is_asked(self) -> Self:
        if bool(self.signals.learned) != (self.step_model is not None):
            named, there = sorted(self.signals.learned), "a" if self.step_model else "no"
            raise ValueError(
                f"rewards: found signals {named} of the kind learned, and {there} step model; "
                "describe one in `step_model` where a signal asks it, and only there"
            )
        return self

    def votes_kept_in(self, path: Path) -> RewardConfig:
        """The same, where a judge without a store of its own keeps its votes in the SQLite file `path`."""
        if self.judge is None or "store" in self.model_fields_set:
            return self
        return self.model_copy(update={"store": SqliteStore(path=path)})

    @model_serializer(mode="wrap")
    def _without_a_store_that_nobody_named(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A judge's store stays unnamed when this is written down: whoever reads it keeps the votes where it runs."""
        written: dict[str, Any] = handler(self)
        if self.judge is not None and "store" not in self.model_fields_set:
            written.pop("store", None)
        return written

    @property
    def needs_distance(self) -> bool:
        """Whether tasks must have an exact distance to their solution."""
        if isinstance(self.shaping, PotentialShaping):
            return True
        return self.shaping.needs_distance and isinstance(self.signals.contribution, DistanceContribution)

    @model_validator(mode="after")
    def _weights_have_signals(self) -> Self:
        weighted = set(self.shaping.extra) if isinstance(self.shaping, LinearShaping) else set()
        if weighted != set(self.signals.extra):
            raise ValueError(
                f"signals.extra has {sorted(self.signals.extra)} and shaping.extra gives weights to "
                f"{sorted(weighted)}; name the same signals in both"
            )
        return self
