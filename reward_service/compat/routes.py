"""The routes of the other protocols, as one router of the application.

Consumes whatever answers `POST /v1/score`; produces `POST /compat/openrlhf/get_reward`, `POST /compat/vllm/classify`
and NeMo-Gym's `POST /verify`, `POST /seed_session` and `GET /reverify_mode`, which Gym looks for at the root. All want
a key, if there are any, and those that score take `?reward_version=`. Errors are problem documents: these clients read
the status alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from reward_service.compat import classify, nemo_gym, openrlhf
from reward_service.compat.classify import ClassifyReply, ClassifyRequest
from reward_service.compat.nemo_gym import VerifyRequest
from reward_service.compat.openrlhf import RewardQuery, RewardReply
from reward_service.errors import UnscorableTrajectory
from reward_service.wire import Identifier, ScoreRequest, ScoreResponse

Score = Callable[[Request, ScoreRequest], Awaitable[ScoreResponse]]
PinnedVersion = Annotated[
    Identifier | None,
    Query(
        alias="reward_version",
        description="Refuse with 409 unless the service has this version: these protocols have no other place for it.",
    ),
]


def compat_router(score: Score, guarded: type[APIRoute]) -> APIRouter:
    """The router; `score` answers as `POST /v1/score` does, `guarded` is the kind of route that asks for the key."""
    router = APIRouter(route_class=guarded, tags=["compat"])

    @router.post("/compat/openrlhf/get_reward")
    async def get_reward(http: Request, query: RewardQuery, version: PinnedVersion = None) -> RewardReply:
        with _data_is_unprocessable():
            response = await score(http, _pinned(openrlhf.as_request(query), version))
            return openrlhf.as_reply(response.results)

    @router.post("/compat/vllm/classify")
    async def classify_text(http: Request, body: ClassifyRequest, version: PinnedVersion = None) -> ClassifyReply:
        with _data_is_unprocessable():
            response = await score(http, _pinned(classify.as_request(body), version))
            return classify.as_reply(response.results[0], body.model)

    @router.post("/verify")
    async def verify(http: Request, body: VerifyRequest, version: PinnedVersion = None) -> dict[str, Any]:
        with _data_is_unprocessable():
            response = await score(http, _pinned(nemo_gym.as_request(body), version))
            return nemo_gym.as_reply(response.results[0], body)

    @router.post("/seed_session")
    async def seed_session() -> dict[str, Any]:
        return {}

    @router.get("/reverify_mode")
    async def reverify_mode() -> str:
        return "stateless"

    return router


def _pinned(request: ScoreRequest, version: str | None) -> ScoreRequest:
    return request.model_copy(update={"reward_version": version})


@contextmanager
def _data_is_unprocessable() -> Iterator[None]:
    """These protocols have no place for the error of one trajectory, so the request gets it."""
    try:
        yield
    except UnscorableTrajectory as error:
        raise HTTPException(422, str(error)) from error
