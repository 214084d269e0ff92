"""Demonstrations as token sequences: the same layout of a conversation that rollouts use, filled by a scripted policy.

Consumes `tool_sandbox.demonstrations.Demonstration`; produces ids and a mask over the action tokens. Because it shares
`ChatFormat` with the episodes, a warm start sees exactly the tokens that the policy will meet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actors.config import EpisodeConfig
from actors.prompt import ChatFormat
from tool_sandbox.demonstrations import Demonstration
from tool_sandbox.tools import ToolSpec


@dataclass(frozen=True, slots=True)
class EncodedDemonstration:
    """One conversation to imitate."""

    token_ids: tuple[int, ...]
    action_mask: tuple[bool, ...]
    """True on action tokens, their end-of-turn token included."""


def encode(
    demonstration: Demonstration, chat: ChatFormat, specs: Mapping[str, ToolSpec], config: EpisodeConfig
) -> EncodedDemonstration:
    """Lay a demonstration out as an episode would have: an observation that nobody answers to is not fed."""
    task = demonstration.task
    ids = list(chat.prompt_ids(task.prompt, [specs[name] for name in task.tools]))
    mask = [False] * len(ids)
    fed: tuple[int, ...] = ()
    for text, reply in _turns(demonstration, chat, config):
        _extend(ids, mask, fed, learned=False)
        _extend(ids, mask, chat.action_ids(text), learned=True)
        fed = reply
    return EncodedDemonstration(tuple(ids), tuple(mask))


def _turns(
    demonstration: Demonstration, chat: ChatFormat, config: EpisodeConfig
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What is said turn by turn, and the ids that it is replied to with, by a tool or by the user."""
    ends = [*(turn.calls for turn in demonstration.turns), len(demonstration.actions)]
    done = 0
    for turn, end in zip((*demonstration.turns, None), ends, strict=True):
        for call, outcome in zip(demonstration.actions[done:end], demonstration.outcomes[done:end], strict=True):
            yield (
                render_call(call.name, call.arguments),
                chat.observation_ids(outcome.result.content, config.observation_tokens),
            )
        done = end
        if turn is not None:
            yield turn.answer, chat.user_ids(turn.said)
    if demonstration.answer is not None:
        yield demonstration.answer, ()


def render_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as a demonstration writes it: one Hermes `<tool_call>` JSON object."""
    body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


def _extend(ids: list[int], mask: list[bool], more: tuple[int, ...], *, learned: bool) -> None:
    ids.extend(more)
    mask.extend([learned] * len(more))
