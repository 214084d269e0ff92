"""Reward functions for TRL's trainers: `GRPOTrainer(reward_funcs=reward_function(client), …)`.

Consumes prompts, completions and columns of the data set as TRL hands them out; produces one number for each
completion, the sum of its step rewards, or None where it abstains. Imports without TRL.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from reward_service.adapters.terms import ground_truth, text_item, total
from reward_service.client import RewardClient, SyncRewardClient
from reward_service.wire import ConversationItem, ScoreRequest, ScoreResponse, TaskItem, TrajectoryItem

Rewards = list[float | None]


def reward_function(
    client: SyncRewardClient, answer_column: str = "answer", tools: Sequence[Mapping[str, Any]] = ()
) -> Callable[..., Rewards]:
    """A reward function that asks `client`. The caller closes the client.

    `answer_column` names the column with the right answer, if there is one; `tools`, in OpenAI's form, are for judges.
    """

    def steptool_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        """One number or None for each completion. Raises what the client raises, and `UnscorableTrajectory`."""
        request = _request(prompts, completions, columns.get(answer_column), tools)
        return _rewards(client.score(request)) if request is not None else []

    return steptool_reward


def async_reward_function(
    client: RewardClient, answer_column: str = "answer", tools: Sequence[Mapping[str, Any]] = ()
) -> Callable[..., Awaitable[Rewards]]:
    """The same for an event loop: TRL runs such functions beside each other."""

    async def steptool_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        """As the other."""
        request = _request(prompts, completions, columns.get(answer_column), tools)
        return _rewards(await client.score(request)) if request is not None else []

    return steptool_reward


def _request(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answers: Sequence[Any] | None,
    tools: Sequence[Mapping[str, Any]],
) -> ScoreRequest | None:
    rows = zip(prompts, completions, answers or [None] * len(completions), strict=True)
    items = tuple(_item(f"completion-{row}", *parts, tools) for row, parts in enumerate(rows))
    # The client cuts it into requests that the service takes; the limit of the contract is for one of those.
    return ScoreRequest.model_construct(trajectories=items) if items else None


def _rewards(response: ScoreResponse) -> Rewards:
    return [total(result) for result in response.results]


def _item(
    id: str, prompt: Any, completion: Any, answer: Any, tools: Sequence[Mapping[str, Any]]
) -> TrajectoryItem | ConversationItem:
    if isinstance(completion, str):
        return text_item(id, completion, prompt if isinstance(prompt, str) else "", answer)
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _asked(prompt)
    task = TaskItem(id=id, ground_truth=ground_truth(answer))
    messages = [*asked, *_numbered(completion)]
    return ConversationItem.model_validate({"id": id, "messages": messages, "task": task, "tools": list(tools)})


def _asked(prompt: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The prompt without its own examples of calls: they are not the model's steps."""
    return [message for message in prompt if message["role"] not in ("assistant", "tool")]


def _numbered(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """TRL's messages in OpenAI's form: each call with an id, each result with the id of its call."""
    numbered: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    for position, message in enumerate(messages):
        if message["role"] == "tool":
            numbered.append(_result(message, waiting))
            continue
        calls = [_call(call, f"call-{position}-{place}") for place, call in enumerate(message.get("tool_calls") or ())]
        waiting = [(call["function"]["name"], call["id"]) for call in calls]
        numbered.append({"role": message["role"], "content": message.get("content"), "tool_calls": calls or None})
    return numbered


def _call(call: Mapping[str, Any], id: str) -> dict[str, Any]:
    """What is no call of a function keeps no arguments that anybody could read: TRL runs nothing for it either."""
    if call.get("type", "function") != "function":
        return {"id": id, "function": {"name": str(call.get("name", "unknown")), "arguments": "unsupported type"}}
    function = call["function"]
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "function": {"name": function["name"], "arguments": written}}


def _result(message: Mapping[str, Any], waiting: list[tuple[str, str]]) -> dict[str, Any]:
    """The result with its call: the first of this name that has none. TRL puts those of async tools last."""
    named = [found for found in waiting if found[0] == message.get("name")]
    mine = (named or waiting or [("", "")])[0]
    if mine in waiting:
        waiting.remove(mine)
    return {"role": "tool", "tool_call_id": mine[1], "content": message["content"]}
