"""The page's files and numbers over HTTP, without a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.page.routes import page_files
from reward_service.stats_wire import StatsSnapshot
from tests.reward_service.builders import trajectory
from tests.reward_service.page.served import service
from tool_sandbox.http.keys import ApiKeys

KEYS, SECRET = ApiKeys.issue("page")
KEY = {"Authorization": f"Bearer {SECRET}"}
FILES = sorted(f"/page/{name}" for name in page_files())


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(service(RewardConfig()), KEYS), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://rewards") as client:
        yield client


@pytest.mark.parametrize("path", ["/", *FILES])
async def test_every_file_comes_with_its_type_and_the_strict_policy(http, path):
    response = await http.get(path)
    assert response.status_code == 200
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.headers["content-type"].startswith(kinds.get(path.rpartition(".")[2], "text/html"))
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = directives(response)
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in policy if name in {"script-src", "style-src", "img-src", "connect-src"}} == {
        "'self'"
    }
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert "unsafe" not in response.headers["content-security-policy"]


def directives(response):
    parts = response.headers["content-security-policy"].split(";")
    return {name: sources for name, _, sources in (part.strip().partition(" ") for part in parts)}


@pytest.mark.parametrize("path", ["/", "/page/main.js"])
async def test_a_browser_asks_each_time_and_is_sent_a_file_once(http, path):
    first = await http.get(path)
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for offered in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = await http.get(path, headers={"If-None-Match": offered})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert "content-security-policy" in again.headers
    assert (await http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_the_page_refers_to_files_that_are_there_and_to_nothing_elsewhere(http):
    index = (await http.get("/")).text
    referred = set(re.findall(r'(?:src|href)="([^"#]+)"', index))
    assert referred == {"page/icon.svg", "page/page.css", "page/main.js"}
    for path in FILES:
        text = (await http.get(path)).text
        imported = re.findall(r'from "\./([^"]+)"', text)
        assert {f"/page/{name}" for name in imported} <= set(FILES)
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


async def test_the_page_holds_neither_script_nor_style_of_its_own(http):
    index = (await http.get("/")).text
    assert re.findall(r"<script(?![^>]* src=)", index) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", index) == []


async def test_no_script_turns_a_text_into_markup(http):
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser"
    scripts = [path for path in FILES if path.endswith(".js")]
    assert [path for path in scripts if re.search(sinks, (await http.get(path)).text)] == []


@pytest.mark.parametrize("name", ["nothing.js", "..%2Froutes.py", "%2e%2e%2froutes.py", "__init__.py"])
async def test_a_file_that_is_not_of_the_page_is_a_problem(http, name):
    response = await http.get(f"/page/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_the_page_and_the_metrics_need_no_key_and_the_figures_do(http):
    assert (await http.get("/")).status_code == 200
    assert (await http.get("/metrics")).status_code == 200
    assert (await http.get("/v1/stats")).status_code == 401
    assert (await http.get("/v1/stats", headers=KEY)).status_code == 200


async def test_the_figures_count_what_was_scored_and_what_was_refused(http):
    good, lacking = trajectory("good"), trajectory("lacking")
    del lacking["steps"][0]["progress"]
    await http.post("/v1/score", json={"trajectories": [good, lacking]}, headers=KEY)
    await http.post("/v1/score", json={"trajectories": []}, headers=KEY)
    await http.post("/v1/score", json={"trajectories": [good]})
    await http.get("/v1/models", headers=KEY)
    snapshot = StatsSnapshot.model_validate_json((await http.get("/v1/stats", headers=KEY)).content)
    assert snapshot.total.requests == {"200": 1, "401": 1, "422": 1}
    assert snapshot.total.trajectories == {"ok": 1, "data": 1, "infrastructure": 0}
    assert (snapshot.total.steps, snapshot.slots[-1].steps) == (2, 2)
    assert sum(snapshot.total.latency_counts) == 3


async def test_a_wrong_method_counts_as_the_refusal_that_the_caller_got(http):
    assert (await http.delete("/v1/score", headers=KEY)).status_code == 405
    assert (await http.get("/v1/stats", headers=KEY)).json()["total"]["requests"] == {"405": 1}


async def test_prometheus_can_scrape_the_service(http):
    await http.post("/v1/score", json={"trajectories": [trajectory()]}, headers=KEY)
    response = await http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {family.name: family.samples for family in text_string_to_metric_families(response.text)}
    assert [(sample.labels["status"], sample.value) for sample in found["steptool_rewards_requests"]] == [("200", 1.0)]


async def test_an_error_of_ours_counts_as_the_500_that_the_caller_got():
    broken = service(RewardConfig())
    broken.score = None  # type: ignore[method-assign]
    transport = httpx.ASGITransport(build_app(broken, ApiKeys.nobody_asked()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://rewards") as client:
        assert (await client.post("/v1/score", json={"trajectories": [trajectory()]})).status_code == 500
        assert (await client.get("/v1/stats")).json()["total"]["requests"] == {"500": 1}


async def test_below_a_prefix_the_page_is_found_with_and_without_the_last_slash():
    app = Starlette(routes=[Mount("/rewards", build_app(service(RewardConfig()), ApiKeys.nobody_asked()))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host", follow_redirects=True) as client:
        response = await client.get("/rewards")
        assert response.url.path == "/rewards/"
        assert (await client.get(response.url.join("page/main.js"))).status_code == 200
