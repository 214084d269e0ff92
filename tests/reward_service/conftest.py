"""Two ways to the same service: FastAPI without a network, and the real deployment on Ray Serve over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tool_sandbox.http.keys import ApiKeys


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, and how to reach it."""

    url: str
    key: str
    transport: Callable[[], httpx.AsyncBaseTransport]


@pytest.fixture(scope="session")
def served(ray_local: str) -> Iterator[Service]:
    """The service on Ray Serve; started once, since a start takes seconds."""
    from reward_service.serve_app import start_rewards, stop_rewards

    keys, secret = ApiKeys.issue("tests")
    endpoint = start_rewards(RewardConfig(), keys, application="rewards-tests")
    yield Service(endpoint.url, secret, httpx.AsyncHTTPTransport)
    stop_rewards(endpoint)


def in_process() -> Service:
    keys, secret = ApiKeys.issue("tests")
    app = build_app(RewardService(Recipe(RewardConfig())), keys)
    return Service("http://rewards", secret, lambda: httpx.ASGITransport(app, raise_app_exceptions=False))


@pytest.fixture(params=["in process", "ray serve"])
def service(request: pytest.FixtureRequest) -> Service:
    return request.getfixturevalue("served") if request.param == "ray serve" else in_process()


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client with the key, as curl would be."""
    headers = {"Authorization": f"Bearer {service.key}"}
    async with httpx.AsyncClient(
        base_url=service.url, headers=headers, transport=service.transport(), timeout=30
    ) as client:
        yield client
