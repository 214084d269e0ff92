"""What the service answered: the contract's values, or the error that its refusal means. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from reward_service.errors import (
    RewardProtocolError,
    RewardRejected,
    RewardRequestError,
    RewardUnauthorized,
    RewardVersionMismatch,
)
from reward_service.model_card import ModelList
from reward_service.wire import (
    VERSION_MISMATCH,
    ItemResult,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    SentTrajectory,
    TrajectoryItem,
)

_Value = TypeVar("_Value", bound=BaseModel)


class Readiness(BaseModel):
    """Answer of `/readyz`; other fields are for people."""

    status: str
    reward_version: str


def scores(response: httpx.Response, request: ScoreRequest) -> ScoreResponse:
    """The answer to `request`.

    Raises:
        RewardRequestError: a refusal, or an answer to another question.
    """
    answer = _read(response, ScoreResponse)
    if len(answer.results) != len(request.trajectories) or not all(map(_answers, answer.results, request.trajectories)):
        found = [(result.id, len(result.steps)) for result in answer.results]
        expected = [(item.id, _steps(item)) for item in request.trajectories]
        raise RewardProtocolError(
            f"{response.url}: {len(found)} results for {len(expected)} trajectories, ids and steps {found}; "
            f"expected {expected} in this order"
        )
    return answer


def models(response: httpx.Response) -> ModelList:
    """The scorers of the service. Raises as `scores` does."""
    return _read(response, ModelList)


def ready_version(response: httpx.Response) -> str:
    """Reward version of a service that is ready. Raises as `scores` does."""
    return _read(response, Readiness).reward_version


def _read(response: httpx.Response, kind: type[_Value]) -> _Value:
    if not response.is_success:
        raise _refusal(response)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise RewardProtocolError(f"{response.url}: the answer is no {kind.__name__} ({error})") from error


def _answers(result: ItemResult, item: SentTrajectory) -> bool:
    if isinstance(result, ScoredItem) and isinstance(item, TrajectoryItem):
        return result.id == item.id and len(result.steps) == len(item.steps)
    return result.id == item.id


def _steps(item: SentTrajectory) -> int | str:
    """How many; the service finds them where the trajectory came as messages."""
    return len(item.steps) if isinstance(item, TrajectoryItem) else "any"


def _refusal(response: httpx.Response) -> RewardRequestError:
    problem = _problem(response)
    detail = str(problem.get("detail") or response.text[:500])
    match response.status_code:
        case 401 | 403:
            return RewardUnauthorized(f"{response.url}: {detail}")
        case 409 if problem.get("type") == VERSION_MISMATCH:
            return RewardVersionMismatch(expected=str(problem.get("expected")), found=str(problem.get("found")))
        case status:
            return RewardRejected(status, detail)


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document; empty where the answer is none, as from Serve's own proxy, or a broken one."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
