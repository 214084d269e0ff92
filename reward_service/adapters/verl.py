"""The custom reward function of verl: `reward.custom_reward_function.path: pkg://reward_service.adapters.verl`.

Consumes what verl's reward managers hand out: the response as text, the ground truth of the data set and `extra_info`.
Produces `score`, the sum of the step rewards, and the same other keys for every sample. Imports without verl. The
clients live as long as their event loop or process, since verl calls a function and knows no end of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from reward_service.adapters.terms import text_item, total
from reward_service.client import RewardClient, SyncRewardClient
from reward_service.errors import RewardAbstained
from reward_service.wire import ItemResult, ScoreRequest

_TRAJECTORY = "sample"
_Client = TypeVar("_Client")
_REMEDY = "verl cannot leave a sample out: mend the scorer, or say with `abstained_score` what such a sample counts"


class _Address(NamedTuple):
    """What tells clients apart."""

    url: str
    key_variable: str | None
    timeout_seconds: float
    reward_version: str | None


_sync_clients: dict[_Address, SyncRewardClient] = {}
_async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Address, RewardClient]] = WeakKeyDictionary()


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str,
    key_variable: str | None = None,
    timeout_seconds: float = 60.0,
    reward_version: str | None = None,
    abstained_score: float | None = None,
    **_of_reward_model: Any,
) -> dict[str, Any]:
    """Score one response; the keyword arguments are verl's `reward_kwargs`.

    `url` is the service's, without `/v1`; the environment variable `key_variable` holds its API key. `reward_version`
    insists on a version; None pins that of the first answer, in each worker. `abstained_score` is what a sample counts
    that nobody could score; None raises. verl adds arguments where it runs a reward model, too.

    Raises:
        RewardVersionMismatch: the service scores by another version.
        RewardAbstained: no step could be scored, and `abstained_score` is None.
        UnscorableTrajectory: the service cannot score such a sample at all.
        RewardRequestError: the service could not be asked.
    """
    client = _async_client(_Address(url, key_variable, timeout_seconds, reward_version))
    response = await client.score(_request(solution_str, ground_truth, extra_info))
    return _score(response.results[0], abstained_score)


def compute_score_sync(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str,
    key_variable: str | None = None,
    timeout_seconds: float = 60.0,
    reward_version: str | None = None,
    abstained_score: float | None = None,
    **_of_reward_model: Any,
) -> dict[str, Any]:
    """As `compute_score`, for reward managers that call in threads or processes of their own."""
    client = _sync_client(_Address(url, key_variable, timeout_seconds, reward_version))
    response = client.score(_request(solution_str, ground_truth, extra_info))
    return _score(response.results[0], abstained_score)


async def close_clients() -> None:
    """Close the connections that `compute_score` opened in this event loop, and all of `compute_score_sync`."""
    while _sync_clients:
        _sync_clients.popitem()[1].close()
    for client in _async_clients.pop(asyncio.get_running_loop(), {}).values():
        await client.aclose()


def _request(solution: str, truth: Any, extra_info: Mapping[str, Any] | None) -> ScoreRequest:
    question = (extra_info or {}).get("question")
    prompt = question if isinstance(question, str) else ""
    return ScoreRequest(trajectories=(text_item(_TRAJECTORY, solution, prompt, truth),))


def _score(result: ItemResult, abstained_score: float | None) -> dict[str, Any]:
    """verl makes an array of each key over the batch: no key is missing in any sample, and none is a list."""
    score = total(result)
    if score is None and abstained_score is None:
        raise RewardAbstained(_TRAJECTORY, _REMEDY)
    rewards = [step.reward for step in result.steps]
    return {
        "score": abstained_score if score is None else score,
        "acc": math.nan if result.solved is None else result.solved,
        "abstained": float(score is None),
        "steps": len(rewards),
        "abstained_steps": rewards.count(None),
        "step_rewards": json.dumps(rewards),
    }


def _async_client(address: _Address) -> RewardClient:
    """One for each event loop, which owns its connections."""
    clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
    if address not in clients:
        clients[address] = _client(RewardClient, address)
    return clients[address]


def _sync_client(address: _Address) -> SyncRewardClient:
    """One for all threads."""
    if address not in _sync_clients:
        # Two threads may get here at once; the client of the second has opened nothing, and goes.
        _sync_clients.setdefault(address, _client(SyncRewardClient, address))
    return _sync_clients[address]


def _client(kind: Callable[..., _Client], address: _Address) -> _Client:
    key = _key(address.key_variable)
    return kind(address.url, key, address.timeout_seconds, reward_version=address.reward_version)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"reward key: the environment variable {variable} is empty or not set; put the API key there")
    return key
