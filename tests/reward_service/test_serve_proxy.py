"""Refusals of Serve's proxy as problem documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cluster.environment import process_defaults
from reward_service.serve_proxy import ProblemDocuments
from tests.reward_service.problems import assert_problem


def _sends(*messages: dict[str, Any]) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return application


def _answer(*messages: dict[str, Any]) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(ProblemDocuments(_sends(*messages)))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as http:
            return await http.get("/", headers={"X-Request-Id": "mine"})

    return asyncio.run(asked())


def start(status: int, *headers: tuple[str, str]) -> dict[str, Any]:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": raw}


def text(content: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content.encode()}


PLAIN = ("content-type", "text/plain; charset=utf-8")
NAMED = ("x-request-id", "mine")


@pytest.mark.parametrize(("status", "retry"), [(404, None), (408, None), (429, "1"), (503, "1")])
def test_what_the_proxy_refuses_in_plain_text_becomes_a_problem(status, retry):
    response = _answer(start(status, PLAIN, NAMED), text("queue_len 7 at 10.0.0.1"))
    assert_problem(response, status)
    assert response.headers.get("retry-after") == retry
    assert response.headers["x-request-id"] == "mine"
    assert "10.0.0.1" not in response.text


def test_the_proxys_own_time_to_wait_is_kept():
    assert _answer(start(429, PLAIN, ("retry-after", "7"), NAMED), text("busy")).headers.get_list("retry-after") == [
        "7"
    ]


def test_a_request_that_was_lost_with_its_replica_is_told_to_come_again():
    response = _answer()
    assert_problem(response, 503)
    assert response.headers["retry-after"] == "1"


class _Losing:
    """An application whose first replicas are lost once they have the whole body; the next one says what it read."""

    def __init__(self, lost: int) -> None:
        self._lost = lost
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = "changed on the way, as Serve does"
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        if len(self.bodies) > self._lost:
            await send(start(200, ("content-type", "text/plain")))
            await send({"type": "http.response.body", "body": body})


def _asked(application: Any, method: str, path: str, body: bytes | AsyncIterator[bytes] = b"") -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(ProblemDocuments(application))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as http:
            return await http.request(method, path, content=body)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/score"),
        ("POST", "/rewards/v1/score"),
        ("POST", "/compat/openrlhf/get_reward"),
        ("POST", "/compat/vllm/classify"),
        ("POST", "/verify"),
        ("GET", "/v1/score/batches/b-1"),
    ],
)
def test_another_replica_answers_what_one_was_lost_with(method, path):
    application = _Losing(1)
    response = _asked(application, method, path, b"body")
    assert (response.status_code, response.text) == (200, "body")
    assert application.bodies == [b"body", b"body"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/score/batches"), ("PUT", "/v1/score")])
def test_what_would_do_something_twice_is_asked_once(method, path):
    application = _Losing(1)
    assert_problem(_asked(application, method, path, b"body"), 503)
    assert application.bodies == [b"body"]


class _Robbed(_Losing):
    """Serve passed the body on to a replica that died before it had accepted, so that the next one waits in vain."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(scope, receive, send)
        if len(self.bodies) <= self._lost:
            await send(start(408, ("content-type", "application/problem+json")))
            await send(text("the body did not arrive"))


def test_a_body_that_went_down_with_a_replica_is_sent_once_more():
    application = _Robbed(1)
    response = _asked(application, "POST", "/v1/score", b"body")
    assert (response.status_code, response.text) == (200, "body")


def test_a_body_that_goes_down_twice_is_told_to_come_again():
    assert_problem(_asked(_Robbed(2), "POST", "/v1/score", b"body"), 503)


def test_a_caller_whose_body_does_not_come_is_told_so():
    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["more_body"]
        await send(start(408, ("content-type", "application/problem+json")))
        await send(text("the body did not arrive"))

    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        yield b"the rest"

    assert _asked(impatient, "POST", "/v1/score", parts()).status_code == 408


def test_a_request_that_two_replicas_were_lost_with_meets_no_third():
    application = _Losing(2)
    assert_problem(_asked(application, "POST", "/v1/score", b"body"), 503)
    assert application.bodies == [b"body", b"body"]


def test_a_body_too_long_to_be_kept_is_asked_once():
    application = _Losing(1)
    assert_problem(_asked(application, "POST", "/v1/score", b"x" * (4 * 2**20 + 1)), 503)
    assert len(application.bodies) == 1


@pytest.mark.parametrize(
    "begin",
    [
        start(200, PLAIN, NAMED),
        start(404, PLAIN, ("content-length", "5"), NAMED),
        start(404, ("content-type", "application/json"), NAMED),
        start(418, PLAIN, NAMED),
    ],
)
def test_what_an_application_answers_passes_as_it_is(begin):
    response = _answer(begin, text("as it"))
    assert (response.status_code, response.text) == (begin["status"], "as it")


def test_serve_is_told_where_to_find_them():
    from ray.serve._private.utils import call_function_from_import_path

    named = process_defaults()["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert [one.cls for one in call_function_from_import_path(named)] == [ProblemDocuments]
