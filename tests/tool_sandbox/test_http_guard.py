"""Before the routes: keys over HTTP, scopes, quotas, web pages, request ids, and what is told to logs and observers."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.tool_sandbox.clocks import Clock
from tests.tool_sandbox.guarded_shop import JSON, MAX_BODY_BYTES, assert_refused, client, shop
from tool_sandbox.http import guard
from tool_sandbox.http.envelope import AnswerCutShort
from tool_sandbox.http.keys import ApiKeys, digest

ORDER = {"items": [1, 2, 3]}
MODELS = "/models/all"


def keys(granted: str = "", name: str = "anna", secret: str = "hush") -> ApiKeys:
    return ApiKeys.parse(f"{name}:{digest(secret)}{granted}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Keys


async def test_both_forms_of_a_key_open_the_same_door():
    async with client(shop(keys())) as http:
        forms: tuple[dict[str, Any], ...] = (
            {"headers": {"Authorization": "Bearer hush"}},
            {"auth": ("anna", "hush")},
            {"auth": ("", "hush")},
        )
        for form in forms:
            assert (await http.post("/score", json=ORDER, **form)).json() == {"key": "anna", "items": 3}
        # What becomes of the user info of a URL.
        response = await http.post("http://anna:hush@shop/score", json=ORDER)
        assert response.json()["key"] == "anna"
        assert_refused(await http.post("/score", json=ORDER, auth=("bert", "hush")), 401)


async def test_a_browser_is_not_asked_for_a_password_that_it_would_remember():
    async with client(shop(keys())) as http:
        response = await http.get(MODELS)
    assert "no API key" in assert_refused(response, 401)["detail"]
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_key_that_the_file_no_longer_has_is_refused_without_a_restart(tmp_path, clock):
    file = tmp_path / "keys"
    file.write_text(f"anna:{digest('hush')}")
    async with client(shop(ApiKeys({}, file), clock), "hush") as http:
        assert (await http.get(MODELS)).status_code == 200
        file.write_text(f"bertram:{digest('other')}")
        clock.wait(1)
        assert_refused(await http.get(MODELS), 401)
        assert (await http.get(MODELS, headers={"Authorization": "Bearer other"})).status_code == 200


async def test_a_file_that_becomes_empty_does_not_open_the_door(tmp_path, clock):
    file = tmp_path / "keys"
    file.write_text(f"anna:{digest('hush')}")
    async with client(shop(ApiKeys({}, file), clock)) as http:
        file.write_text("")
        clock.wait(1)
        assert_refused(await http.get(MODELS), 401)


# Scopes


async def test_a_key_opens_what_it_is_for_and_says_so_elsewhere():
    async with client(shop(keys(":read")), "hush") as http:
        assert (await http.get(MODELS)).status_code == 200
        detail = assert_refused(await http.post("/score", json=ORDER), 403)["detail"]
    assert detail == "key 'anna': is for 'read'; this needs the scope 'score'"


# Quotas


async def test_requests_over_the_quota_wait_exactly_as_long_as_they_are_told(clock):
    async with client(shop(keys(":4/min"), clock), "hush") as http:
        statuses = [(await http.get(MODELS)).status_code for _ in range(4)]
        refused = await http.post("/score", json=ORDER)
        clock.wait(14.9)
        early = await http.get(MODELS)
        clock.wait(0.1)
        again = await http.get(MODELS)
    assert statuses == [200] * 4
    assert assert_refused(refused, 429)["detail"] == "key 'anna': at most 4 requests a minute; try again in 15 s"
    assert [response.headers.get("retry-after") for response in (refused, early, again)] == ["15", "1", None]
    assert again.status_code == 200


async def test_all_who_share_a_key_share_its_quota_in_whatever_form_they_send_it(clock):
    both = keys(":2/min").joined(keys(":2/min", "bert", "other"))
    async with client(shop(both, clock)) as http:
        assert (await http.get(MODELS, auth=("anna", "hush"))).status_code == 200
        assert (await http.get(MODELS, headers={"Authorization": "Bearer hush"})).status_code == 200
        assert_refused(await http.get(MODELS, auth=("", "hush")), 429)
        assert (await http.get(MODELS, auth=("bert", "other"))).status_code == 200


async def test_nobody_spends_the_quota_of_a_key_that_he_does_not_have_or_may_not_use(clock):
    async with client(shop(keys(":read:1/min"), clock)) as http:
        assert_refused(await http.get(MODELS, auth=("anna", "wrong")), 401)
        assert_refused(await http.post("/score", json=ORDER, auth=("anna", "hush")), 403)
        assert (await http.get(MODELS, auth=("anna", "hush"))).status_code == 200


async def test_trajectories_over_the_quota_wait_and_what_is_no_order_costs_none(clock):
    async with client(shop(keys(":6 trajectories/min"), clock), "hush") as http:
        assert_refused(await http.post("/score", json={"item": 1}), 422)
        for _ in range(20):
            assert (await http.get(MODELS)).status_code == 200
        assert [(await http.post("/score", json=ORDER)).status_code for _ in range(2)] == [200, 200]
        refused = await http.post("/score", json=ORDER)
        clock.wait(30)
        assert (await http.post("/score", json=ORDER)).status_code == 200
    # Three trajectories at one every ten seconds.
    assert "at most 6 trajectories a minute; try again in 30 s" in assert_refused(refused, 429)["detail"]
    assert refused.headers["retry-after"] == "30"


async def test_a_quota_that_the_file_raises_counts_at_once(tmp_path, clock):
    file = tmp_path / "keys"
    file.write_text(f"anna:{digest('hush')}:1/min")
    async with client(shop(ApiKeys({}, file), clock), "hush") as http:
        assert (await http.get(MODELS)).status_code == 200
        file.write_text(f"anna:{digest('hush')}:100/min")
        assert_refused(await http.get(MODELS), 429)
        clock.wait(1)
        assert [(await http.get(MODELS)).status_code for _ in range(100)] == [200] * 100


# Web pages


@pytest.mark.parametrize("origin", ["https://example.org", "http://127.0.0.1.example", "null", "http://[", "x", "é"])
async def test_a_page_of_elsewhere_gets_nothing_from_a_service_without_keys(origin):
    """Also one whose name was made to resolve to this machine, which a browser takes for the same site."""
    headers = {"Origin": origin.encode("latin-1"), "Host": b"example.org"}
    async with client(shop(ApiKeys.nobody_asked())) as http:
        assert_refused(await http.post("/score", json=ORDER, headers=headers), 403)
        assert_refused(await http.get(MODELS, headers=headers), 403)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8090", "http://[::1]:8090"])
async def test_a_page_of_this_machine_is_served_without_keys(origin):
    async with client(shop(ApiKeys.nobody_asked())) as http:
        assert (await http.post("/score", json=ORDER, headers={"Origin": origin})).json()["key"] == ""


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_page_can_send_without_asking_first_is_refused_even_with_a_key(kind):
    headers = {"Origin": "https://example.org", "Content-Type": kind}
    async with client(shop(keys()), "hush") as http:
        response = await http.post("/score", content=b'{"items": []}', headers=headers)
    assert f"Content-Type: found {kind!r}; expected application/json" in assert_refused(response, 415)["detail"]


async def test_no_answer_ever_lets_a_page_of_elsewhere_read_it():
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    async with client(shop(keys()), "hush") as http:
        answers = [
            await http.options("/score", headers=asked),
            await http.options("/nowhere", headers=asked),
            await http.post("/score", json=ORDER, headers=asked),
            await http.post("/score", content=b"{", headers=asked | JSON),
            await http.get(MODELS, headers=asked | {"Authorization": ""}),
            await http.post("/broken", json={"items": ["x"]}, headers=asked),
        ]
    assert [answer.status_code for answer in answers] == [405, 404, 200, 422, 401, 500]
    names = {name for answer in answers for name in answer.headers}
    assert not [name for name in names if name.startswith("access-control")]


# Errors and request ids


async def refusals(status: int, key: str) -> httpx.Response:
    """A request that is answered with `status`."""
    headers = JSON | {"Authorization": f"Bearer {key}", "X-Request-Id": "mine-1"}
    app = shop(keys(":score+read:9/min") if status != 429 else keys(":score:1 trajectories/min"))

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with client(app) as http:
        match status:
            case 401:
                return await http.get(MODELS, headers=headers | {"Authorization": ""})
            case 404:
                return await http.get("/nowhere", headers=headers)
            case 405:
                return await http.put("/score", headers=headers)
            case 408:
                return await http.post("/score", content=endless(), headers=headers)
            case 413:
                return await http.post("/score", content=b" " * (MAX_BODY_BYTES + 1), headers=headers)
            case 415:
                return await http.post("/score", content=b"x", headers=headers | {"Content-Encoding": "br"})
            case 422:
                return await http.post("/score", content=b"{", headers=headers)
            case 429:
                await http.post("/score", json=ORDER, headers=headers)
                return await http.post("/score", json=ORDER, headers=headers)
            case _:
                return await http.post("/broken", json={"items": ["x"]}, headers=headers)


@pytest.mark.parametrize("status", [401, 404, 405, 408, 413, 415, 422, 429, 500])
async def test_every_error_is_a_problem_document_with_the_request_s_id(status, monkeypatch):
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.05)
    response = await refusals(status, "hush")
    assert_refused(response, status)
    assert response.headers.get_list("x-request-id") == ["mine-1"]


@pytest.mark.parametrize("given", ["a", "!~", "x" * 128])
async def test_an_id_of_visible_ascii_is_kept(given):
    async with client(shop(keys()), "hush") as http:
        assert (await http.get(MODELS, headers={"X-Request-Id": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", b"a\tb", b"\xe9", b"\x00", b"a\r\nSet-Cookie: b=c"])
async def test_any_other_id_is_replaced_by_a_new_one(given):
    async with client(shop(keys()), "hush") as http:
        headers = [] if given is None else [(b"X-Request-Id", given)]
        found = [(await http.get(MODELS, headers=headers)).headers["x-request-id"] for _ in range(2)]
        twice = (await http.get(MODELS, headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])).headers
    assert [len(name) for name in found] == [32, 32]
    assert found[0] != found[1]
    assert len(twice["x-request-id"]) == 32


async def test_a_failure_is_logged_with_its_places_and_nothing_that_was_sent(caplog):
    caplog.set_level(logging.DEBUG)
    headers = {"X-Request-Id": "mine-1", "X-Other": "lamp-a", "Cookie": "lamp-b"}
    async with client(shop(keys()), "hush") as http:
        response = await http.post("/broken?lamp-c", json={"items": ["lamp-d"]}, headers=headers)
    assert "under the id in X-Request-Id" in assert_refused(response, 500)["detail"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    message = record.getMessage()
    assert message.startswith("the shop failed on request mine-1: RuntimeError\n")
    assert "\nafter ValueError\n" in message
    assert "guarded_shop.py" in message
    assert record.exc_info is None
    told = "".join(record.getMessage() for record in caplog.records if record.name != "httpx")
    assert not [secret for secret in ("hush", "lamp", digest("hush")) if secret in told]


async def test_an_answer_that_breaks_off_shows_the_server_no_message_either(caplog):
    async with client(shop(keys()), "hush") as http:
        with pytest.raises(AnswerCutShort) as caught:
            await http.get("/cut")
    assert "RuntimeError: hush" not in "".join(traceback.format_exception(caught.value))
    assert "RuntimeError\n" in caplog.text


async def test_a_refusal_shows_only_the_beginning_of_a_key_that_it_names():
    async with client(shop(keys()), "hush") as http:
        body = {"items": [], "x" * 100_000: 1}
        response = await http.post("/score", json=body)
        assert response.status_code == 200
        twice = b'{"items": [], "%b": 1, "%b": 2}' % (b"y" * 100_000, b"y" * 100_000)
        refused = await http.post("/score", content=twice, headers=JSON)
    assert_refused(refused, 422)
    assert len(refused.content) < 1000


# Observers


async def test_an_observer_hears_of_every_answer_and_whose_it_was():
    heard: list[tuple[str, int, float, str]] = []
    app = shop(keys(":score+read"), observe=lambda *told: heard.append(told))
    async with client(app, "hush") as http:
        await http.get("/models/one")
        await http.get("/models/one", headers={"Authorization": "Bearer wrong"})
        await http.post("/score", content=b"{", headers=JSON)
        await http.post("/broken", json={"items": ["x"]})
        await http.put("/score")
        await http.get("/nowhere")
    assert [(path, status, name) for path, status, _, name in heard] == [
        ("/models/{name}", 200, "anna"),
        ("/models/{name}", 401, ""),
        ("/score", 422, "anna"),
        ("/broken", 500, "anna"),
        ("/score", 405, ""),
    ]
    assert all(0 < seconds < 60 for _, _, seconds, _ in heard)
