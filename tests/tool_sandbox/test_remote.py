"""The client of a remote sandbox against a service that answers as SandboxFusion does, and misbehaves on purpose."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from tool_sandbox.config import MIB, RemoteConfig
from tool_sandbox.errors import InvalidTool, SandboxUnavailable
from tool_sandbox.isolation.python_tool import PYTHON_SPEC
from tool_sandbox.remote import RemoteSandbox
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult

CONFIG = RemoteConfig(url="http://sandbox:8080/", retries=2, call_seconds=20)
CALL = ToolCall("c7", "python", {"code": "print('lamp')"})


def ran(**result: Any) -> httpx.Response:
    """An answer with a run result, in the service's own shape."""
    command = {"status": "Finished", "execution_time": 0.02, "return_code": 0, "stdout": "", "stderr": ""} | result
    return httpx.Response(
        200,
        json={
            "status": "Success" if command["status"] == "Finished" and command["return_code"] == 0 else "Failed",
            "message": "",
            "compile_result": None,
            "run_result": command,
            "executor_pod_name": None,
            "files": {},
        },
    )


PROOF = ran(stdout="42\n")
LAMP = ran(stdout="lamp\n")


class Script:
    """Plays replies one after the other and then stays with the last; keeps what it was asked."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = [PROOF, *replies]
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)

    def sandbox(self, config: RemoteConfig = CONFIG, key: str | None = None) -> RemoteSandbox:
        return RemoteSandbox(config, key=key, transport=httpx.MockTransport(self))

    def result(self, config: RemoteConfig = CONFIG) -> ToolResult:
        return self.sandbox(config).open().call(CALL)


def test_a_call_is_one_request_in_the_protocol_s_own_words() -> None:
    script = Script(LAMP)
    config = CONFIG.model_copy(update={"memory_bytes": 100 * MIB, "run_seconds": 3.0})
    result = script.result(config)
    assert (result.status, result.content) == (CallStatus.OK, "lamp")
    request = script.asked[1]
    assert str(request.url) == "http://sandbox:8080/run_code"
    assert json.loads(request.content) == {
        "code": "print('lamp')",
        "language": "python",
        "compile_timeout": 10.0,
        "run_timeout": 3.0,
        "memory_limit_MB": 100,
        "stdin": None,
        "files": {},
        "fetch_files": [],
    }


@pytest.mark.parametrize(
    ("reply", "status", "content"),
    [
        (ran(stdout="lamp\n", stderr="a warning\n"), CallStatus.OK, "lamp"),
        (
            ran(return_code=1, stdout="a\n", stderr="Traceback …\nKeyError: 'b'\n"),
            "tool_error",
            "a\nerror: KeyError: 'b'",
        ),
        (ran(return_code=3), CallStatus.TOOL_ERROR, "error: ended with code 3"),
        (ran(status="TimeLimitExceeded", return_code=None, stdout="a\n"), "timeout", "a\nerror: out of time"),
        (ran(return_code=1, stderr="Traceback …\nMemoryError"), CallStatus.OUT_OF_MEMORY, "error: out of memory"),
        (ran(return_code=137), CallStatus.OUT_OF_MEMORY, "error: out of memory"),
        (ran(return_code=-9), CallStatus.OUT_OF_MEMORY, "error: out of memory"),
        (ran(return_code=159), CallStatus.DENIED, "error: ended with code 159"),
        (
            ran(return_code=1, stderr="PermissionError: [Errno 13] Permission denied: '/etc'"),
            CallStatus.DENIED,
            "error: PermissionError: [Errno 13] Permission denied: '/etc'",
        ),
        (
            httpx.Response(
                200,
                json={
                    "status": "Failed",
                    "message": "",
                    "compile_result": {
                        "status": "Finished",
                        "return_code": 1,
                        "stdout": "",
                        "stderr": "SyntaxError: x",
                    },
                },
            ),
            CallStatus.TOOL_ERROR,
            "error: SyntaxError: x",
        ),
    ],
)
def test_how_a_program_ended_is_a_status(reply: httpx.Response, status: CallStatus, content: str) -> None:
    script = Script(reply)
    result = script.result()
    assert (result.status, result.content) == (CallStatus(status), content)
    assert len(script.asked) == 2


SANDBOX_ERROR = httpx.Response(
    200, json={"status": "SandboxError", "message": "no pod", "run_result": None, "files": {}}
)


@pytest.mark.parametrize(
    "hiccup",
    [
        httpx.ConnectError("connection refused"),
        httpx.ReadTimeout("too slow"),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(503),
        SANDBOX_ERROR,
    ],
    ids=["refused", "slow", "429", "503", "sandbox error"],
)
def test_a_failure_of_the_service_is_tried_again(hiccup: httpx.Response | Exception) -> None:
    script = Script(hiccup, hiccup, LAMP)
    assert script.result().content == "lamp"
    assert len(script.asked) == 4


@pytest.mark.parametrize(
    ("reply", "reason", "tries"),
    [
        (SANDBOX_ERROR, "SandboxError: no pod", 3),
        (httpx.Response(502, text="bad gateway"), "status 502: bad gateway", 3),
        (httpx.ConnectError("connection refused"), "ConnectError: connection refused", 3),
        (httpx.Response(401, text="who?"), "status 401: who?", 1),
        (httpx.Response(422, text="no"), "status 422: no", 1),
        (httpx.Response(200, text="<html>"), "the answer does not fit the protocol", 1),
        (httpx.Response(200, json={"status": "Success", "message": ""}), "has no result of any command", 1),
    ],
)
def test_what_the_service_cannot_do_is_an_infrastructure_failure(
    reply: httpx.Response | Exception, reason: str, tries: int
) -> None:
    script = Script(reply)
    result = script.result()
    assert result.status is CallStatus.INFRA_ERROR
    assert result.content.startswith("error: http://sandbox:8080/: ")
    assert reason in result.content
    assert len(script.asked) == 1 + tries


def test_the_deadline_bounds_all_tries_together() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "30"}))
    started = time.monotonic()
    result = script.result(CONFIG.model_copy(update={"call_seconds": 0.5}))
    assert result.status is CallStatus.INFRA_ERROR
    assert "no verdict in 0.5 s" in result.content
    assert time.monotonic() - started < 5
    assert len(script.asked) == 2


@pytest.mark.parametrize(
    ("header", "found"), [("Authorization", ("authorization", "Bearer hush")), ("X-API-Key", ("x-api-key", "hush"))]
)
def test_the_key_travels_in_the_header_that_the_operator_names(header: str, found: tuple[str, str]) -> None:
    script = Script(LAMP)
    script.sandbox(CONFIG.model_copy(update={"key_header": header}), key="hush").open()
    name, value = found
    assert script.asked[0].headers[name] == value


def test_no_session_is_opened_at_a_service_that_does_not_run_python() -> None:
    script = Script()
    script.replies = [ran(stdout="43\n")]
    sandbox = script.sandbox()
    for _ in range(2):
        with pytest.raises(SandboxUnavailable, match=r"asked for print\(6 \* 7\), found .*'43'.*, expected '42'"):
            sandbox.open()
    script.replies = [PROOF]
    sandbox.open()
    sandbox.open()
    assert len(script.asked) == 3


def test_the_level_is_what_the_operator_declares() -> None:
    assert Script().sandbox().level is IsolationLevel.NONE
    config = CONFIG.model_copy(update={"level": IsolationLevel.NAMESPACES})
    assert Script(LAMP).result(config).isolation is IsolationLevel.NAMESPACES


def test_a_tool_of_another_tier_is_refused() -> None:
    with pytest.raises(InvalidTool, match="declares trust 'isolated'; this tier runs 'remote'"):
        RemoteSandbox(CONFIG, [CodeTool(PYTHON_SPEC, lambda call: "")])


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="url"):
        RemoteConfig(url="sandbox:8080")
