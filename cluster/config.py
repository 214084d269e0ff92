"""The configuration of a run: composes the floors' own settings, and owns those of the loop. No behaviour."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from actors.config import RolloutConfig
from learner.config import CreditConfig, LearnerConfig, StepGaeConfig
from learner.credit.config import (
    EtoConfig,
    LeaveOneOutConfig,
    MonteCarloConfig,
    TreeConfig,
    value_head_of,
)
from learner.objective.config import LossConfig, NoKl
from reward_service.config import RewardConfig
from tool_sandbox.config import PoolConfig
from tool_sandbox.tasks import Split


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(gt=0, lt=1)]


class FixedMix(Settings):
    """The levels take turns."""

    kind: Literal["fixed"] = "fixed"


class CurriculumMix(Settings):
    """The shares of the levels follow what the policy solves, so that it solves some of its tasks and fails at some."""

    kind: Literal["curriculum"] = "curriculum"
    low: Share = 0.3
    high: Share = 0.7
    """The band that the solved rate of the sampled episodes is to stay in."""
    margin: NonNegativeFloat = 0.1
    """How near to an edge of the band the expected rate may come before tasks move to other levels. They go on moving
    until it is in the middle. The rate of one iteration scatters about the expected one."""
    window: PositiveInt = 3
    """Newest iterations with tasks of a level over which its solved rate is taken."""
    step: Share = 0.1
    """Largest share of the tasks that moves in an iteration."""
    floor: Share = 0.05
    """Share that every level keeps, so that none is forgotten and each goes on being measured."""

    @model_validator(mode="after")
    def _a_band(self) -> Self:
        if self.low + self.margin >= self.high - self.margin:
            raise ValueError(
                f"task.mix: low {self.low:g} and high {self.high:g} leave no band inside a margin of {self.margin:g}; "
                "raise high, or lower low or margin"
            )
        return self


class IndependentGroup(Settings):
    """Every trajectory of a group begins at the prompt."""

    kind: Literal["independent"] = "independent"


class ForkedGroup(Settings):
    """Some trajectories of a group begin at the prompt; the others branch off them, at a step that is drawn."""

    kind: Literal["forked"] = "forked"
    roots: PositiveInt = 2
    """Trajectories that begin at the prompt. The rest of `group_size` branches off them in turn."""


class TaskConfig(Settings):
    """Which tasks are trained on."""

    suite: str = "ledger"
    """Name of the toolset whose tasks are played; `jsonl:FILE` plays the tasks of a file."""
    levels: tuple[str, ...] = ("L0", "L1", "L2")
    """Easiest first."""
    mix: Annotated[FixedMix | CurriculumMix, Field(discriminator="kind")] = FixedMix()
    split: Split = Split.TRAIN
    per_iteration: PositiveInt = 6
    group_size: PositiveInt = 8
    """Trajectories of each task in an iteration."""
    group: Annotated[IndependentGroup | ForkedGroup, Field(discriminator="kind")] = IndependentGroup()

    @model_validator(mode="after")
    def _room_above_the_floors(self) -> Self:
        if isinstance(self.mix, CurriculumMix) and self.mix.floor * len(self.levels) >= 1:
            raise ValueError(
                f"task.mix.floor is {self.mix.floor:g} for each of {len(self.levels)} levels, which leaves nothing to "
                f"move; expected less than {1 / len(self.levels):g}"
            )
        return self

    @model_validator(mode="after")
    def _somebody_branches_off(self) -> Self:
        if isinstance(self.group, ForkedGroup) and self.group.roots >= self.group_size:
            raise ValueError(
                f"task.group.roots is {self.group.roots} and task.group_size {self.group_size}: nobody is left to "
                "branch off; lower the one, raise the other, or set task.group.kind=independent"
            )
        return self

    @property
    def trajectories_per_iteration(self) -> int:
        return self.per_iteration * self.group_size


class EvaluationConfig(Settings):
    """The held-out tasks: the same ones before, during and after."""

    tasks: PositiveInt = 192
    """Spread evenly over the levels."""
    split: Split = Split.TEST_IID
    every: NonNegativeInt = 0
    """Iterations between evaluations during training; 0 evaluates before and after only."""
    sampled: bool = True
    """Also report the solved rate at the training temperature."""


class LoopConfig(Settings):
    """How long to train."""

    iterations: PositiveInt = 20
    train_seconds: PositiveFloat | None = None
    """Stop after the iteration in which this much time has passed, whichever comes first; None: no limit."""
    total_seconds: PositiveFloat | None = None
    """What the whole command may take, with start, warm start and evaluations: training ends while there is still time
    for the last evaluation, after one iteration at the least. A resumed run has it anew. None: no limit."""


class KeepNewest(Settings):
    """Only the newest checkpoints."""

    kind: Literal["newest"] = "newest"
    count: PositiveInt = 2


class KeepMilestones(Settings):
    """The newest checkpoints, and for good those of every so many iterations."""

    kind: Literal["milestones"] = "milestones"
    count: PositiveInt = 2
    interval: PositiveInt
    """A checkpoint stays where its iteration is a multiple of this; the start, iteration 0, is one."""


KeepConfig = Annotated[KeepNewest | KeepMilestones, Field(discriminator="kind")]


class CheckpointConfig(Settings):
    """When to save, and which checkpoints to keep."""

    every: PositiveInt = 5
    """Iterations."""
    keep: KeepConfig = KeepNewest()


class CanaryConfig(Settings):
    """The proof, after every publish, that the engine serves the learner's weights."""

    sequences: PositiveInt = 2
    tokens: PositiveInt = 64
    """Longest part of a sequence that is compared."""
    bfloat16_mean_gap: PositiveFloat = 0.12
    """Largest mean |Δ log p| in nats; two bfloat16 implementations of one model differ by about 0.04."""
    float32_mean_gap: PositiveFloat = 1e-4
    """Largest mean |Δ log p| in nats; two float32 implementations differ by about 0.000005, the policy of one iteration
    of the quickstart and that of the next by about 0.04."""
    float32_max_gap: PositiveFloat = 1e-3
    """Largest |Δ log p| in nats of any token. A very improbable token may differ by more than 0.0001 in an engine that
    read the right weights from their file: docs/measurements.md."""


class PlacementConfig(Settings):
    """What each actor reserves on the cluster."""

    learner_cpus: PositiveFloat = 0.9
    """For each rank. Phases alternate, so learner and engine may share cores."""
    learner_gpus: NonNegativeFloat = 0.0
    rollout_cpus: PositiveFloat = 0.7
    rollout_gpus: NonNegativeFloat = 0.0
    sandbox_actors: PositiveInt = 1
    sandbox_cpus: PositiveFloat = 0.1
    sandbox_labels: dict[str, str] = Field(default_factory=dict)
    """Ray node labels: sandboxes run only on nodes that have them all, such as a pool of machines without secrets."""
    strategy: Literal["PACK", "SPREAD"] = "PACK"
    """Actors on few nodes, or over as many as there are."""
    deadline_seconds: PositiveFloat = 60.0
    """Longest wait for the cluster to grant the placement group."""


class RunConfig(Settings):
    """Everything that decides a run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    seed: NonNegativeInt = 0
    deterministic: bool = False
    """float32, one seed for each request, rollouts in lock step: the same run gives the same losses."""
    task: TaskConfig = TaskConfig()
    rollout: RolloutConfig
    sandbox: PoolConfig = PoolConfig()
    rewards: RewardConfig = RewardConfig()
    learner: LearnerConfig
    credit: CreditConfig = StepGaeConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    canary: CanaryConfig = CanaryConfig()
    placement: PlacementConfig = PlacementConfig()

    @model_validator(mode="after")
    def _sampled_as_trained(self) -> Self:
        """The engine records probabilities of the tempered distribution; the learner's ratios know none but T = 1."""
        temperature = self.rollout.sampling.temperature
        if temperature != 1.0:
            raise ValueError(
                f"rollout.sampling.temperature is {temperature:g}, expected 1: the learner compares with probabilities "
                "at temperature 1, so every importance ratio would be wrong; evaluation takes other temperatures"
            )
        return self

    @model_validator(mode="after")
    def _credit_has_what_it_reads(self) -> Self:
        """Found out before anything starts: an estimator that reads nothing would give no credit."""
        measured = self.rewards.signals.contribution.kind
        if isinstance(self.credit, LeaveOneOutConfig) and measured != "leave_one_out":
            raise ValueError(
                f"credit.kind is 'leave_one_out' and rewards.signals.contribution.kind is {measured!r}: its advantages "
                "are the contributions that replays measure; set rewards.signals.contribution.kind=leave_one_out"
            )
        return self

    @model_validator(mode="after")
    def _a_group_for_each_minibatch(self) -> Self:
        """Groups stay whole, so a minibatch without one would silently be no step."""
        minibatches, groups = self.learner.minibatches, self.task.per_iteration
        if minibatches > groups:
            raise ValueError(
                f"learner.minibatches is {minibatches}, expected at most task.per_iteration, which is {groups}: "
                "a group is never cut; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _a_penalty_that_credit_sees(self) -> Self:
        kl, wrong = self.learner.loss.kl, _unpaid_penalty(self.credit)
        if not isinstance(kl, NoKl) and kl.place == "reward" and wrong is not None:
            raise ValueError(
                f"learner.loss.kl.place is reward and credit.kind is {self.credit.kind}{wrong}; set "
                "learner.loss.kl.place to loss, or choose another credit.kind, such as step_gae"
            )
        return self

    @model_validator(mode="after")
    def _company_for_each_trajectory(self) -> Self:
        """Found out before anything starts: every group would be uniform, and no iteration would make a step."""
        if self.task.group_size > 1:
            return self
        if self.credit.compares_within_groups_alone():
            raise ValueError(
                f"task.group_size is 1 and credit.kind is {self.credit.kind}, whose advantages compare the "
                "trajectories of a group: no step would have one; set task.group_size to 2 or more, or choose a "
                "credit.kind that needs no group, such as step_gae, step_reinforce_pp or reinforce_pp"
            )
        if self.credit.outcome_weight:
            raise ValueError(
                f"task.group_size is 1 and credit.outcome_weight {self.credit.outcome_weight:g}: the outcome is "
                "compared within the group, so its part would be zero; raise the one or drop the other"
            )
        return self

    @model_validator(mode="after")
    def _an_objective_that_is_used(self) -> Self:
        """Preferences have a loss of their own."""
        chosen, plain = self.learner.loss, LossConfig()
        given = [name for name in LossConfig.model_fields if getattr(chosen, name) != getattr(plain, name)]
        if isinstance(self.credit, EtoConfig) and given:
            names = ", ".join(f"learner.loss.{name}" for name in given)
            raise ValueError(
                f"credit.kind is 'eto' and {names} set: its loss is one of preferences, whose reference is that of "
                "credit.beta; drop them, or choose another credit.kind"
            )
        return self

    @model_validator(mode="after")
    def _forks_that_credit_knows_of(self) -> Self:
        if not isinstance(self.task.group, ForkedGroup):
            return self
        if not isinstance(self.credit, TreeConfig):
            raise ValueError(
                f"task.group.kind is forked and credit.kind is {self.credit.kind}, which takes the trajectories of a "
                "group for independent and would count what they share once for each; set credit.kind=tree"
            )
        if self.rollout.episode.max_steps == 1:
            raise ValueError(
                "task.group.kind is forked and rollout.episode.max_steps is 1: an episode of one step has no place to "
                "branch off; raise it, or set task.group.kind=independent"
            )
        return self

    @property
    def reopens_sessions(self) -> bool:
        """Whether episodes begin in the middle of recorded ones."""
        return isinstance(self.credit, MonteCarloConfig) or isinstance(self.task.group, ForkedGroup)

    @model_validator(mode="after")
    def _a_value_clip_that_acts(self) -> Self:
        """In the first step after values were read, no value has moved."""
        head = value_head_of(self.credit)
        if head is not None and head.clip is not None and self.learner.steps_per_update == 1:
            raise ValueError(
                "credit.critic.clip is set and an update is one optimiser step, in which no value has moved yet; "
                "raise learner.passes or learner.minibatches, or drop credit.critic.clip"
            )
        return self


def _unpaid_penalty(credit: CreditConfig) -> str | None:
    """What would be wrong with a KL that is taken off step rewards; None where each step is charged with its own."""
    if isinstance(credit, MonteCarloConfig):
        return ": the steps would be charged with the KL and the continuations that they are compared with would not"
    return {
        "all": None,
        "all but the last": ", which does not read the reward of the last step: its KL would be dropped",
        "none": ", which reads no step reward: the KL would control nothing",
    }[credit.step_rewards]
