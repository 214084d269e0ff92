"""Demonstrations as token sequences: the same layout of a conversation that rollouts use, filled by a scripted policy.

Consumes `tool_sandbox.demonstrations.Demonstration`; produces ids and a mask over the action tokens. Because it shares
`ChatFormat` with the episodes, a warm start sees exactly the tokens that the policy will meet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    for index, text in enumerate(_turns(demonstration)):
        if index:
            observed = demonstration.outcomes[index - 1].result.content
            _extend(ids, mask, chat.observation_ids(observed, config.observation_tokens), learned=False)
        _extend(ids, mask, chat.action_ids(text), learned=True)
    return EncodedDemonstration(tuple(ids), tuple(mask))


def _turns(demonstration: Demonstration) -> list[str]:
    calls = [render_call(call.name, call.arguments) for call in demonstration.actions]
    return calls if demonstration.answer is None else [*calls, demonstration.answer]


def render_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as a demonstration writes it: one Hermes `<tool_call>` JSON object."""
    body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


def _extend(ids: list[int], mask: list[bool], more: tuple[int, ...], *, learned: bool) -> None:
    ids.extend(more)
    mask.extend([learned] * len(more))
