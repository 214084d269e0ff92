"""What every trainer calls otherwise, brought to one: its ground truth to ours, our result to the one number it takes.

Pure; used by the adapters here and by the routes in `compat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from reward_service.errors import ScorerUnavailable, UnscorableTrajectory
from reward_service.hermes import last_request, read_text
from reward_service.wire import FailedItem, GroundTruthItem, ItemResult, TaskItem, TrajectoryItem


def ground_truth(value: Any) -> GroundTruthItem:
    """A text or a number is the answer, an object is the contract's `ground_truth`, nothing is nothing.

    Raises:
        ValueError: it is none of these, or the object has other fields.
    """
    match value:
        case None | "":
            return GroundTruthItem()
        case str() | Real():
            return GroundTruthItem(answer=str(value))
        case Mapping():
            return GroundTruthItem.model_validate(dict(value))
        case _:
            raise ValueError(
                f"ground truth: found a {type(value).__name__}; expected the right answer as text or number, or an "
                "object with answer, state_hash or minimum_calls"
            )


def text_item(id: str, text: str, prompt: str, truth: Any) -> TrajectoryItem:
    """A trajectory that came as the text `text`, which the model wrote after `prompt`.

    Raises:
        ValueError: see `ground_truth`; or more steps than the contract takes.
    """
    read = read_text(text)
    task = TaskItem(id=id, ground_truth=ground_truth(truth), prompt=last_request(prompt) or None)
    return TrajectoryItem(id=id, steps=read.steps, task=task, stop=read.stop)


def number(result: ItemResult) -> float:
    """Sum of the step rewards, for a protocol that has no place for an abstention.

    Raises:
        UnscorableTrajectory: the caller's: it cannot be scored, or no step of it can.
        ScorerUnavailable: a scorer was lost; another try may do better.
    """
    found = total(result)
    if found is not None:
        return found
    if isinstance(result, FailedItem):
        raise ScorerUnavailable(result.error.message)
    raise UnscorableTrajectory(result.id, "no step has a reward, all abstain; send ground truth, or leave it out")


def total(result: ItemResult) -> float | None:
    """Sum of the step rewards; None where no step has one, so that nobody takes an abstention for a zero.

    Raises:
        UnscorableTrajectory: the service refused the trajectory itself. That is a mistake of the caller's.
    """
    if isinstance(result, FailedItem):
        if result.error.kind == "data":
            raise UnscorableTrajectory(result.id, result.error.message)
        return None
    return result.total if any(step.reward is not None for step in result.steps) else None
