"""Whatever is sent to the sandbox service, it never answers that it failed."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tool_sandbox.hostile_bytes import BODIES, ENCODING, HEADER, TYPE, spoilt, status
from tool_sandbox.client import LocalSandbox
from tool_sandbox.config import HttpConfig, PoolConfig
from tool_sandbox.http.app import build_app
from tool_sandbox.http.keys import ApiKeys, digest

CONFIG = HttpConfig(max_body_bytes=64 * 1024)
LOCKED = build_app(CONFIG, LocalSandbox(PoolConfig()), ApiKeys.parse(f"anna:{digest('hush')}"))
OPEN = build_app(CONFIG, LocalSandbox(PoolConfig(max_sessions=2, queue_seconds=0)), ApiKeys.nobody_asked())
REFUSED = {400, 403, 404, 409, 413, 415, 422, 429}

GOOD: dict[str, Any] = {
    "/run_code": {"code": "1", "language": "python", "run_timeout": 1.5, "memory_limit_MB": 64, "files": {"a": "YQ=="}},
    "/reset": {"seed": 3, "split": "train", "level": "L1", "episode_id": "x"},
    "/step": {"action": {"type": "call_tool", "tool_name": "item", "arguments": {"a": [1]}}, "episode_id": "x"},
}
PATHS = st.sampled_from(sorted(GOOD))


@given(HEADER, st.sampled_from(["Authorization", "authorization"]))
def test_any_authorization_but_the_right_one_is_refused(header, name):
    assert status(LOCKED, "GET", "/state?episode_id=x", {name: header}) == 401


@given(PATHS, BODIES, TYPE, ENCODING, st.none() | HEADER, st.none() | HEADER)
def test_any_body_with_any_headers_is_an_answer_or_a_refusal(path, body, kind, encoding, origin, request_id):
    headers = {"Content-Type": kind, "Content-Encoding": encoding, "Origin": origin, "X-Request-Id": request_id}
    assert status(OPEN, "POST", path, headers, body) in {200, *REFUSED}


@pytest.mark.parametrize("path", sorted(GOOD))
@given(st.data())
def test_a_good_request_with_something_bad_in_it_is_an_answer_or_a_refusal(path, data):
    body = json.dumps(data.draw(spoilt(GOOD[path]))).encode()
    assert status(OPEN, "POST", path, {"Content-Type": b"application/json"}, body) in {200, *REFUSED}


@given(st.text())
def test_any_name_of_an_episode_is_an_answer_or_a_refusal(name):
    query = quote(name.encode("utf-8", "surrogatepass"))
    assert status(OPEN, "GET", f"/state?episode_id={query}", {}) in {200, *REFUSED}
