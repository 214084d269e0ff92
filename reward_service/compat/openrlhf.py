"""OpenRLHF's remote reward model: whole trajectories as text in, one number each out.

Owns the bodies of its protocol and their translation. Its client takes no abstention: a batch in which a trajectory
abstains is refused, so that no fake zero is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, model_validator

from reward_service.adapters.terms import number, text_item
from reward_service.errors import UnscorableTrajectory
from reward_service.hermes import continuation
from reward_service.wire import MAX_TRAJECTORIES, ItemResult, ScoreRequest, TrajectoryItem

LOGGED_STEPS = 16
"""`extra_logs` has the rewards of so many steps. The client wants the same keys for all, and one number in each."""


class RewardQuery(BaseModel):
    """What the client sends: lists of one length, whole texts, the prompts that they begin with, the labels."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    query: Annotated[list[str], Field(min_length=1, max_length=MAX_TRAJECTORIES)]
    prompts: list[str]
    labels: list[JsonValue]

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        lengths = [len(self.query), len(self.prompts), len(self.labels)]
        if len(set(lengths)) > 1:
            raise ValueError(f"query, prompts and labels: found {lengths} entries; send as many of each")
        return self


class RewardReply(BaseModel):
    """What the client reads. It makes a tensor of every value, so all are numbers, in the order of the query."""

    rewards: list[FiniteFloat]
    scores: list[FiniteFloat]
    """IsSolved, which its dynamic filtering works on; the reward where nobody knows."""
    extra_logs: dict[str, list[FiniteFloat]]


def as_request(query: RewardQuery) -> ScoreRequest:
    """The trajectories, with the steps that the texts show.

    Raises:
        UnscorableTrajectory: a text does not begin with its prompt, or a label is no ground truth.
    """
    rows = zip(query.query, query.prompts, query.labels, strict=True)
    return ScoreRequest(trajectories=tuple(_item(f"query-{row}", *parts) for row, parts in enumerate(rows)))


def as_reply(results: Sequence[ItemResult]) -> RewardReply:
    """The answer.

    Raises:
        UnscorableTrajectory: a trajectory lacks what the signals need, or no step of it has a reward.
        ScorerUnavailable: a scorer was lost.
    """
    rewards = [number(result) for result in results]
    solved = [
        reward if result.solved is None else result.solved for reward, result in zip(rewards, results, strict=True)
    ]
    logs = [_logs([step.reward for step in result.steps]) for result in results]
    return RewardReply(rewards=rewards, scores=solved, extra_logs={key: [log[key] for log in logs] for key in logs[0]})


def _item(id: str, text: str, prompt: str, label: JsonValue) -> TrajectoryItem:
    written = continuation(prompt, text)
    if written is None:
        raise UnscorableTrajectory(id, "the text begins neither with its prompt nor with an end of it; send both whole")
    try:
        return text_item(id, written, prompt, label)
    except ValueError as error:
        raise UnscorableTrajectory(id, str(error)) from error


def _logs(rewards: Sequence[float | None]) -> dict[str, float]:
    """Of one trajectory. A step that abstains or is not there stands as 0: these numbers are for logs alone."""
    counts = {"steps": float(len(rewards)), "abstained_steps": float(list(rewards).count(None))}
    shown = [*rewards[:LOGGED_STEPS], *[None] * LOGGED_STEPS][:LOGGED_STEPS]
    return counts | {f"step_reward_{index:02}": reward or 0.0 for index, reward in enumerate(shown)}
