"""The HTTP contract of `POST /v1/score`, and the one place where its values become ours.

Owns the request and the answer. Both refuse unknown keys, NaN and infinities, and anything over the limits below.
Order is preserved: result i belongs to trajectory i, reward j to step j.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from reward_service.errors import UnscorableTrajectory
from reward_service.messages import ChatMessage, read_conversation
from reward_service.rewards import StepReward, TrajectoryReward
from reward_service.signals import Answered, Called, Episode, Turn, Unparsed
from reward_service.texts import Text, TextOrNumber
from reward_service.tool_items import ToolItem
from tool_sandbox.tasks import GroundTruth, StopReason
from tool_sandbox.tools import CallStatus, Progress

SCHEMA_VERSION = 1
MAX_TRAJECTORIES = 256
MAX_STEPS = 256
MAX_MESSAGES = 2 * MAX_STEPS + 64
MAX_TOOLS = 256
MAX_DEADLINE_MS = 600_000
MAX_BODY_BYTES = 16 * 2**20
MAX_DISTANCE = 1_000_000
"""Calls; keeps every reward far from overflow."""
VERSION_MISMATCH = "urn:steptool:problem:reward-version-mismatch"
"""Type of the problem document that answers a request for another reward version."""
ITEMS_REFUSED = "urn:steptool:problem:items-refused"
"""Type of the problem document that answers a strict request with a trajectory that cannot be scored."""

Identifier = Annotated[str, Field(min_length=1, max_length=256)]
Distance = Annotated[int, Field(ge=0, le=MAX_DISTANCE)]


class Message(BaseModel):
    """Frozen, and closed to what the contract does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    tool_call_id: Identifier | None = None
    """The caller's own name of the call; it comes back with the step's score."""

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

    answer: TextOrNumber | None = None
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
    toolset: Identifier | None = None
    """The installed toolset that `id` is a task of, so that it can be opened again; only replays read it."""


Tools = Annotated[tuple[ToolItem, ...], Field(max_length=MAX_TOOLS)]


class TrajectoryItem(Message):
    """One finished episode, step by step."""

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


class ConversationItem(Message):
    """One finished episode as the chat messages that made it, in OpenAI's format. Every tool call becomes a step."""

    id: Identifier
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    task: TaskItem | None = None
    """Null: a task without ground truth, named like the trajectory."""
    tools: Tools = ()
    stop: StopReason | None = None
    """Null: answered where the last message is the model's answer, else the step budget."""
    final_state_hash: Identifier | None = None
    checked: bool | None = None

    def trajectory(self) -> TrajectoryItem:
        """The same episode, step by step; the statuses of its calls are read from their results.

        Raises:
            UnscorableTrajectory: the messages are no conversation with tools.
        """
        try:
            conversation = read_conversation(self.messages)
            task = self.task or TaskItem(id=self.id)
            return TrajectoryItem(
                id=self.id,
                steps=tuple(StepItem.model_validate(step) for step in conversation.steps),
                task=task if task.prompt is not None else task.model_copy(update={"prompt": conversation.prompt}),
                tools=self.tools,
                stop=self.stop or conversation.stop,
                final_state_hash=self.final_state_hash,
                checked=self.checked,
            )
        except ValueError as error:
            raise UnscorableTrajectory(self.id, _first_reason(error)) from error


class MalformedItem(Message):
    """In the place of a trajectory that does not fit the contract, so that its neighbours are scored all the same."""

    id: Identifier
    """Its own; its pointer where it has none."""
    malformed: str
    """What was found, and what was expected."""
    pointer: str


# Pydantic puts the tag of a union's branch into the place of an error, where it is no part of the body; problem
# documents leave out what stands in brackets.
_STEPS, _MESSAGES, _MALFORMED = "(steps)", "(messages)", "(malformed)"


def _form(value: object) -> str:
    """Which form of a trajectory a value has."""
    if isinstance(value, MalformedItem) or (isinstance(value, Mapping) and "malformed" in value):
        return _MALFORMED
    if isinstance(value, ConversationItem) or (isinstance(value, Mapping) and "messages" in value):
        return _MESSAGES
    return _STEPS


AnyTrajectory = Annotated[
    Annotated[TrajectoryItem, Tag(_STEPS)] | Annotated[ConversationItem, Tag(_MESSAGES)], Discriminator(_form)
]
SentTrajectory = Annotated[
    Annotated[TrajectoryItem, Tag(_STEPS)]
    | Annotated[ConversationItem, Tag(_MESSAGES)]
    | SkipJsonSchema[Annotated[MalformedItem, Tag(_MALFORMED)]],
    Discriminator(_form),
]
"""A trajectory, or what the service itself puts into the place of a malformed one: no form for callers."""


class ScoreOptions(Message):
    """How to answer."""

    strict: bool = False
    """Refuse the whole request with 422 where a trajectory is malformed or cannot be scored, instead of an error in its
    place."""
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    """What is not scored by then gets an `infrastructure` error in its place; null: the service's own deadline."""
    explain: bool = False
    """Also say why, in `why` of each step: what a judge wrote, or which rule spoke."""


class ScoreRequest(Message):
    """Trajectories to score."""

    schema_version: Literal[1] = SCHEMA_VERSION
    reward_version: Identifier | None = None
    """Refuse to answer unless the service has this version; null takes any."""
    options: ScoreOptions = ScoreOptions()
    trajectories: Annotated[tuple[SentTrajectory, ...], Field(min_length=1, max_length=MAX_TRAJECTORIES)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        expect_unique_ids(self.trajectories)
        return self


def expect_unique_ids(trajectories: Sequence[TrajectoryItem | ConversationItem | MalformedItem]) -> None:
    """Raise ValueError where two trajectories have one name, which would leave their results without an owner."""
    names = Counter(item.id for item in trajectories)
    repeated = sorted(name for name, count in names.items() if count > 1)
    if repeated:
        raise ValueError(f"trajectories: ids {repeated} occur more than once; give each trajectory its own id")


class ComponentItem(Message):
    """One part of a reward."""

    name: str
    raw: FiniteFloat
    weight: FiniteFloat
    value: FiniteFloat
    """raw × weight. The values of a step's components add up to its reward."""


class VotesItem(Message):
    """How far the votes behind one signal of a step agree."""

    count: NonNegativeInt
    """0: a fact that nobody was asked about."""
    variance: Annotated[FiniteFloat, Field(ge=0)]
    """Of the votes around their mean, divided by their number: 0 where all agree."""


class StepScore(Message):
    """The reward of one step."""

    index: NonNegativeInt
    tool_call_id: Identifier | None = None
    reward: FiniteFloat | None
    """Null: the step abstains. It is not a reward of zero."""
    signals: dict[str, FiniteFloat | None]
    """Raw measurements by name; null where a signal abstained or does not apply."""
    components: tuple[ComponentItem, ...] = ()
    """What the reward is made of; none where the step abstains."""
    why: str | None = None
    """With `options.explain`."""
    votes: dict[str, VotesItem] = {}
    """By signal, of those that a judge voted on."""


class ScoredItem(Message):
    """A trajectory that was scored."""

    id: Identifier
    status: Literal["ok"] = "ok"
    steps: tuple[StepScore, ...]
    solved: FiniteFloat | None
    total: FiniteFloat
    """Sum of the rewards; a step that abstains adds nothing."""
    error: None = None

    def trajectory_reward(self, reward_version: str) -> TrajectoryReward:
        """The values inside, as the rest of the house uses them."""
        steps = (StepReward(step.reward, step.signals) for step in self.steps)
        return TrajectoryReward(self.id, tuple(steps), self.solved, reward_version)


class ItemError(Message):
    """Why one trajectory has no rewards."""

    kind: Literal["infrastructure", "data"]
    """`infrastructure`: a scorer was lost, the trajectory abstains. `data`: the caller sent what cannot be scored."""
    message: str
    pointer: str | None = None
    """JSON pointer (RFC 6901) into the request, to what does not fit the contract."""


class FailedItem(Message):
    """A trajectory that was not scored."""

    id: Identifier
    status: Literal["error"] = "error"
    steps: tuple[()] = ()
    solved: None = None
    total: None = None
    error: ItemError


ItemResult = Annotated[ScoredItem | FailedItem, Field(discriminator="status")]


class ScoreResponse(Message):
    """One result for each trajectory, in the order of the request."""

    reward_version: str
    results: tuple[ItemResult, ...]


def _first_reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False)[0]
        return f"{'/'.join(map(str, found['loc']))}: {found['msg']}".removeprefix(": ")
    return str(error)
