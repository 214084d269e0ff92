"""vLLM's `/classify`, as far as verl's client of discriminative reward models speaks it: a text in, a number out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from reward_service.adapters.terms import number, text_item
from reward_service.errors import UnscorableTrajectory
from reward_service.hermes import from_first_answer
from reward_service.wire import ItemResult, ScoreRequest

_ITEM = "input"


class ClassifyRequest(BaseModel):
    """A chat, rendered by a template that marks turns as ChatML does. Nothing else of it counts."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = ""
    input: str


class ClassifyItem(BaseModel):
    """The one class; its "probability" is the reward, as it is the raw score where a reward model answers."""

    index: int = 0
    label: str = "reward"
    probs: list[FiniteFloat]
    num_classes: int = 1


class ClassifyReply(BaseModel):
    """What the client reads: `data[-1].probs[-1]`."""

    object: Literal["list"] = "list"
    model: str
    data: list[ClassifyItem]


def as_request(body: ClassifyRequest) -> ScoreRequest:
    """The one trajectory, from the model's first turn on. It has no ground truth.

    Raises:
        UnscorableTrajectory: more steps than the contract takes.
    """
    written = from_first_answer(body.input)
    prompt = body.input.removesuffix(written)
    try:
        return ScoreRequest(trajectories=(text_item(_ITEM, written, prompt, None),))
    except ValueError as error:
        raise UnscorableTrajectory(_ITEM, str(error)) from error


def as_reply(result: ItemResult, model: str) -> ClassifyReply:
    """The answer.

    Raises:
        UnscorableTrajectory: the trajectory lacks what the signals need, or no step of it has a reward.
        ScorerUnavailable: a scorer was lost.
    """
    return ClassifyReply(model=model, data=[ClassifyItem(probs=[number(result)])])
