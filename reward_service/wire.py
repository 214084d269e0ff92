"""The HTTP contract of `POST /v1/score`, and the one place where its values become ours.

Owns the request and the answer. Both refuse unknown keys, NaN and infinities, and anything over the limits below.
Order is preserved: result i belongs to trajectory i, reward j to step j.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, NonNegativeInt, model_validator

from reward_service.rewards import StepReward, TrajectoryReward
from reward_service.signals import Answered, Called, Episode, Turn, Unparsed
from tool_sandbox.tasks import GroundTruth, StopReason
from tool_sandbox.tools import CallStatus, Progress

SCHEMA_VERSION = 1
MAX_TRAJECTORIES = 256
MAX_STEPS = 256
MAX_TOOLS = 256
MAX_CHARACTERS = 65_536
"""Of one text: an observation, an answer, a tool's name."""
MAX_BODY_BYTES = 16 * 2**20
MAX_DISTANCE = 1_000_000
"""Calls; keeps every reward far from overflow."""
VERSION_MISMATCH = "urn:steptool:problem:reward-version-mismatch"
"""Type of the problem document that answers a request for another reward version."""

Identifier = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Distance = Annotated[int, Field(ge=0, le=MAX_DISTANCE)]


class Message(BaseModel):
    """Frozen, and closed to what the contract does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FunctionItem(Message):
    """What a model is told of one tool, as in OpenAI's `tools`."""

    name: Text
    description: Text = ""
    parameters: dict[str, JsonValue] = {}
    strict: bool | None = None


class ToolItem(Message):
    """One tool that the model could call. Judges read it; rules do not."""

    type: Literal["function"] = "function"
    function: FunctionItem


class CallItem(Message):
    """A tool call as the model wrote it, parsed."""

    name: Text
    arguments: dict[str, JsonValue]


class ProgressItem(Message):
    """Fewest calls still needed, before and after the step."""

    before: Distance
    after: Distance


class StepItem(Message):
    """One model turn. Exactly one of `call`, `answer` and `parse_error` is set."""

    index: NonNegativeInt
    """Position in the trajectory, from 0."""
    call: CallItem | None = None
    answer: Text | None = None
    parse_error: Text | None = None
    """Why the turn could not be read as a call; also set for a turn that never ended."""
    status: CallStatus | None = None
    """How the call ended; null only for an answer, an unread turn, and a call whose result was lost."""
    observation: Text | None = None
    progress: ProgressItem | None = None
    """Null for an answer, and where the task has no exact distance."""

    @model_validator(mode="after")
    def _is_one_kind_of_turn(self) -> Self:
        kinds = [name for name in ("call", "answer", "parse_error") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"step {self.index}: found {kinds or 'none'} of call, answer and parse_error; set exactly one"
            )
        if self.call is None and self.status in (CallStatus.OK, CallStatus.INFRA_ERROR):
            raise ValueError(f"step {self.index}: status '{self.status}' without a call; leave the status null")
        return self

    def turn(self) -> Turn:
        """The facts of the step that may count."""
        if self.answer is not None:
            return Answered(self.answer)
        if self.parse_error is not None:
            return Unparsed(self.parse_error)
        progress = None if self.progress is None else Progress(self.progress.before, self.progress.after)
        return Called(self.status or CallStatus.INFRA_ERROR, progress)


class GroundTruthItem(Message):
    """What solves the task: an answer, a state, or neither where nobody knows."""

    answer: Text | None = None
    state_hash: Identifier | None = None
    minimum_calls: Distance | None = None

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if self.answer is not None and self.state_hash is not None:
            raise ValueError("ground_truth: found both answer and state_hash; a task has one target, set one of them")
        return self


class TaskItem(Message):
    """The task, as far as a scorer needs it."""

    id: Identifier
    level: Text = ""
    ground_truth: GroundTruthItem = GroundTruthItem()
    prompt: Text | None = None
    """What the user asked. Judges read it; rules do not."""


Tools = Annotated[tuple[ToolItem, ...], Field(max_length=MAX_TOOLS)]


class TrajectoryItem(Message):
    """One finished episode."""

    id: Identifier
    steps: Annotated[tuple[StepItem, ...], Field(max_length=MAX_STEPS)]
    task: TaskItem
    tools: Tools = ()
    stop: StopReason
    final_state_hash: Identifier | None = None
    checked: bool | None = None
    """The verdict of the toolset's own checker, which then decides IsSolved; null lets `ground_truth` decide."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> Self:
        indices = [step.index for step in self.steps]
        if indices != list(range(len(indices))):
            raise ValueError(f"trajectory {self.id!r}: step indices {indices}; number the steps 0, 1, 2 …")
        return self

    @model_validator(mode="after")
    def _ends_as_it_says(self) -> Self:
        answers = [step.index for step in self.steps if step.answer is not None]
        ends_in_answer = bool(self.steps) and self.steps[-1].answer is not None
        # Answers before the end are those to which the user replied. The other stops may follow any kind of step: the
        # budget may end on such an answer, and the world can be lost after it.
        contradicted = {StopReason.ANSWERED: not ends_in_answer, StopReason.TURN_TOO_LONG: ends_in_answer}
        if contradicted.get(self.stop, False):
            raise ValueError(
                f"trajectory {self.id!r}: stop {self.stop.value!r} with answers at steps {answers}; the last step "
                "is an answer where the stop is 'answered', and none where it is 'turn_too_long'"
            )
        return self

    @model_validator(mode="after")
    def _calls_have_results(self) -> Self:
        pending = [step.index for step in self.steps if step.call is not None and step.status is None]
        if pending and (self.stop is not StopReason.INFRASTRUCTURE or pending != [len(self.steps) - 1]):
            raise ValueError(
                f"trajectory {self.id!r}: no status for the calls at steps {pending}; "
                "only the last call before the stop 'infrastructure' may lack one"
            )
        return self

    def episode(self) -> Episode:
        """The facts that may count."""
        truth = self.task.ground_truth
        return Episode(
            turns=tuple(step.turn() for step in self.steps),
            ground_truth=GroundTruth(truth.answer, truth.state_hash, truth.minimum_calls),
            stop=self.stop,
            state_hash=self.final_state_hash,
            checked=self.checked,
        )


class ScoreRequest(Message):
    """Trajectories to score."""

    schema_version: Literal[1] = SCHEMA_VERSION
    reward_version: Identifier | None = None
    """Refuse to answer unless the service has this version; null takes any."""
    trajectories: Annotated[tuple[TrajectoryItem, ...], Field(min_length=1, max_length=MAX_TRAJECTORIES)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [item.id for item in self.trajectories]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"trajectories: ids {repeated} occur more than once; give each trajectory its own id")
        return self


class SignalItem(Message):
    """Raw signals; null where a signal abstained or does not apply."""

    success: FiniteFloat | None
    contribution: FiniteFloat | None
    solved: FiniteFloat | None


class StepScore(Message):
    """The reward of one step."""

    index: NonNegativeInt
    reward: FiniteFloat | None
    """Null: the step abstains. It is not a reward of zero."""
    signals: SignalItem


class ScoredItem(Message):
    """A trajectory that was scored."""

    id: Identifier
    status: Literal["ok"] = "ok"
    steps: tuple[StepScore, ...]
    solved: FiniteFloat | None
    error: None = None

    @classmethod
    def of(cls, reward: TrajectoryReward) -> Self:
        """The contract's form of `reward`."""
        steps = (
            StepScore(index=index, reward=step.value, signals=SignalItem.model_validate(dict(step.signals)))
            for index, step in enumerate(reward.steps)
        )
        return cls(id=reward.trajectory_id, steps=tuple(steps), solved=reward.solved)

    def trajectory_reward(self, reward_version: str) -> TrajectoryReward:
        """The values inside, as the rest of the house uses them."""
        steps = (StepReward(step.reward, step.signals.model_dump()) for step in self.steps)
        return TrajectoryReward(self.id, tuple(steps), self.solved, reward_version)


class ItemError(Message):
    """Why one trajectory has no rewards."""

    kind: Literal["infrastructure", "data"]
    """`infrastructure`: a scorer was lost, the trajectory abstains. `data`: the caller sent what cannot be scored."""
    message: str


class FailedItem(Message):
    """A trajectory that was not scored."""

    id: Identifier
    status: Literal["error"] = "error"
    steps: tuple[()] = ()
    solved: None = None
    error: ItemError


ItemResult = Annotated[ScoredItem | FailedItem, Field(discriminator="status")]


class ScoreResponse(Message):
    """One result for each trajectory, in the order of the request."""

    reward_version: str
    results: tuple[ItemResult, ...]


class Limits(Message):
    """How much one request may carry."""

    trajectories: int = MAX_TRAJECTORIES
    steps: int = MAX_STEPS
    characters: int = MAX_CHARACTERS
    body_bytes: int = MAX_BODY_BYTES


class ModelCard(Message):
    """The scorer behind the service."""

    id: str
    schema_version: int = SCHEMA_VERSION
    reward_version: str
    shaping: dict[str, JsonValue]
    signals: dict[str, tuple[float, float]]
    """Range of each raw signal."""
    limits: Limits = Limits()


class ModelList(Message):
    """All scorers of the service."""

    data: tuple[ModelCard, ...]
