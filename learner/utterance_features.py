"""What an utterance-level critic reads of the policy: hidden states at the end of each state and of each action.

Owns `UtteranceFeatures` and how ranks' readings become them. They are normalised over their own entries, so that their
scale is the same for every model and half precision holds them, in a replay buffer and in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.trajectory import Trajectory
from learner.packing import PackItem, items_to_read


class UtteranceFeatures(NamedTuple):
    """Of the T steps of a trajectory; float16, each row of mean 0 and variance 1."""

    states: Tensor
    """[T, d] at the last token before each action."""
    actions: Tensor
    """[T, d] at the last token of each action."""

    @classmethod
    def of(cls, read: Tensor | None) -> UtteranceFeatures:
        """From [2T, d], the state and the action of each step in turn; None for a trajectory without a step."""
        both = torch.empty(0, 0, dtype=torch.float16) if read is None else read
        return cls(both[0::2], both[1::2])


class ReadFeatures(Protocol):
    """Asks the policy's trunk."""

    def __call__(self, trajectories: Sequence[Trajectory], /) -> Sequence[UtteranceFeatures]:
        """Those of each trajectory, in order."""
        ...


def utterance_items(trajectories: Sequence[Trajectory]) -> list[PackItem]:
    """What is read of each trajectory that has a step: the end of every state and of every action, in turn."""
    return [
        _without_actions(item, [len(step.action_ids) for step in trajectories[item.index].steps])
        for item in items_to_read(trajectories)
    ]


def _without_actions(item: PackItem, lengths: Sequence[int]) -> PackItem:
    """No probability of a token is wanted: the head has nothing to do."""
    at = tuple(i for start, n in zip(item.value_at, lengths, strict=True) for i in (start, start + n))
    empty = {"action_at": (), "behaviour": (), "advantages": (), "action_step": (), "step_tokens": ()}
    return replace(item, value_at=at, value_targets=(0.0,) * len(at), **empty)


def features_by_item(rows: Sequence[tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    """Of each row the items [S] that its hidden states [S, d] are of; gives [2T, d] for each item, normalised."""
    found: dict[int, Tensor] = {}
    for items, states in rows:
        normal = F.layer_norm(states.float(), states.shape[-1:]).half().cpu()
        items = items.cpu()
        found |= {item: normal[items == item] for item in items.unique().tolist()}
    return found
