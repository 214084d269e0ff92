"""Tier T4: code runs at a service that speaks SandboxFusion's `POST /run_code`.

Owns `RemoteSandbox`. What stands between a program and that service's machine is for its operator to say. Every call is
one request and leaves nothing behind, so a session has no state: any two are in the same, and a fork repeats no call.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import httpx
from pydantic import ValidationError

from tool_sandbox.code_tools import admit, by_name, observation
from tool_sandbox.config import MIB, RemoteConfig
from tool_sandbox.errors import ForkDiverged, LeaseLost, SandboxUnavailable
from tool_sandbox.isolation.python_tool import PYTHON_SPEC
from tool_sandbox.run_code import (
    PATH,
    PYTHON,
    CommandResult,
    CommandStatus,
    RunCodeRequest,
    RunCodeResponse,
    RunStatus,
)
from tool_sandbox.sandbox import CodeTool, Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

REMOTE_PYTHON = CodeTool(replace(PYTHON_SPEC, trust=Trust.REMOTE), lambda call: str(call.arguments["code"]))
"""The `python` tool, run at the service."""

_STATELESS = hashlib.sha256(b"remote: no call sees another").hexdigest()
_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
_RETRIED_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_QUOTED_CHARACTERS = 200
_DENIALS = ("PermissionError:", "OSError: [Errno 1]", "OSError: [Errno 13]", "OSError: [Errno 30]")
"""Last lines of a program that was refused something: EPERM, EACCES, EROFS."""
_KILLED = {137: CallStatus.OUT_OF_MEMORY, -9: CallStatus.OUT_OF_MEMORY, 159: CallStatus.DENIED, -31: CallStatus.DENIED}
"""Return codes of SIGKILL, by which a memory controller ends a program, and of SIGSYS, by which seccomp does."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """No verdict: the service or the way to it failed."""

    reason: str
    again: bool
    """Whether another try may help."""
    pause_seconds: float | None = None
    """What the service asked for."""


class RemoteSandbox:
    """One remote service. Safe to use from many threads."""

    def __init__(
        self,
        config: RemoteConfig,
        tools: Sequence[CodeTool] = (REMOTE_PYTHON,),
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Asks nothing of the service yet; the first `open` does. Raises `InvalidTool` for tools of another trust."""
        self._config = config
        self._tools = by_name(tools, Trust.REMOTE)
        self._http = httpx.Client(
            headers=_key_header(config, key),
            timeout=httpx.Timeout(config.call_seconds, connect=_CONNECT_SECONDS),
            transport=transport,
            # A proxy variable of the environment would catch requests to a service on loopback.
            trust_env=False,
        )
        self._proved = False
        self._proving = threading.Lock()
        self._closed = False

    @property
    def trust(self) -> Trust:
        return Trust.REMOTE

    @property
    def level(self) -> IsolationLevel:
        return self._config.level

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def open(self) -> RemoteSession:
        """A session. The first one proves that the service runs Python at all.

        Raises:
            SandboxUnavailable: it does not, or does not answer.
        """
        with self._proving:
            if not self._proved:
                self._prove()
                self._proved = True
        return RemoteSession(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called; it ends every session."""
        return self._closed

    def fork(self, snapshot: Snapshot) -> RemoteSession:
        """A session like any other: no call of the snapshot left anything to repeat.

        Raises:
            ForkDiverged: the snapshot is another tier's.
        """
        if snapshot.state_hash != _STATELESS:
            raise ForkDiverged(
                f"remote sandbox: a snapshot with state {snapshot.state_hash[:12]} is another tier's; "
                "fork it where it was taken"
            )
        return self.open()

    def close(self) -> None:
        self._closed = True
        self._http.close()

    def run(self, call: ToolCall) -> ToolResult:
        """Run one call with retries, within the deadline. Never raises for what a service can do wrong."""
        tool = admit(self._tools, call)
        if isinstance(tool, ToolResult):
            return tool
        started = time.monotonic()
        answer = self._ask(tool.source(call), started + self._config.call_seconds)
        if isinstance(answer, _Lost):
            status, content = CallStatus.INFRA_ERROR, f"error: {self._config.url}: {answer.reason}"
        else:
            status, content = _verdict(answer, self._config.output_bytes)
        return ToolResult(
            call.id, status, content, wall_seconds=time.monotonic() - started, isolation=self._config.level
        )

    def _prove(self) -> None:
        answer = self._ask("print(6 * 7)", time.monotonic() + self._config.call_seconds)
        found = answer.reason if isinstance(answer, _Lost) else _verdict(answer, self._config.output_bytes)
        if found != (CallStatus.OK, "42"):
            raise SandboxUnavailable(
                f"remote sandbox {self._config.url}: asked for print(6 * 7), found {found!r}, expected '42'; "
                "check the address, the key and the service's own log"
            )

    def _ask(self, code: str, deadline: float) -> RunCodeResponse | _Lost:
        """The service's verdict on a program; only what is not the program's doing is tried again."""
        for attempt in range(self._config.retries + 1):
            answer = self._try(code, max(0.001, deadline - time.monotonic()))
            if not isinstance(answer, _Lost) or not answer.again or attempt == self._config.retries:
                return answer
            pause = answer.pause_seconds if answer.pause_seconds is not None else _backoff(attempt)
            if time.monotonic() + pause >= deadline:
                return replace(answer, reason=f"{answer.reason}; no verdict in {self._config.call_seconds:g} s")
            time.sleep(pause)
        raise AssertionError("the last attempt always returns")

    def _try(self, code: str, seconds: float) -> RunCodeResponse | _Lost:
        request = RunCodeRequest(
            code=code,
            language=PYTHON,
            run_timeout=self._config.run_seconds,
            memory_limit_mb=self._config.memory_bytes // MIB,
        )
        try:
            response = self._http.post(
                self._config.url.rstrip("/") + PATH,
                content=request.model_dump_json(by_alias=True),
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
            )
        except _RETRIED_ERRORS as error:
            return _Lost(f"{type(error).__name__}: {error}", again=True)
        except httpx.TransportError as error:
            return _Lost(f"cannot be asked ({error})", again=False)
        return _read(response)


class RemoteSession:
    """One trajectory's way to the service. Holds nothing but whether it was closed."""

    def __init__(self, sandbox: RemoteSandbox) -> None:
        self._sandbox = sandbox
        self._closed = False

    def call(self, call: ToolCall) -> ToolResult:
        self._check_open()
        return self._sandbox.run(call)

    def state_hash(self) -> str:
        """The same for every session: no call can see another."""
        self._check_open()
        return _STATELESS

    def snapshot(self) -> Snapshot:
        """Empty, since there is no state; it still forks only in this tier."""
        return Snapshot(b"", self.state_hash())

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed or self._sandbox.closed:
            raise LeaseLost("remote session: it was closed; open another")


def _key_header(config: RemoteConfig, key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    return {config.key_header: f"Bearer {key}" if config.key_header.lower() == "authorization" else key}


def _backoff(attempt: int) -> float:
    """Seconds before the next try: doubling, with jitter so that many callers do not come back at once."""
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)


def _read(response: httpx.Response) -> RunCodeResponse | _Lost:
    if response.status_code != httpx.codes.OK:
        header = response.headers.get("retry-after", "")
        asked = float(header) if header.isascii() and header.isdigit() else None
        reason = f"status {response.status_code}: {response.text[:_QUOTED_CHARACTERS]}"
        return _Lost(reason, response.status_code in _RETRIED_STATUSES, asked)
    try:
        answer = RunCodeResponse.model_validate_json(response.content)
    except ValidationError as error:
        return _Lost(f"the answer does not fit the protocol: {error.errors()[0]['msg']}", again=False)
    if answer.status is RunStatus.SANDBOX_ERROR:
        return _Lost(f"SandboxError: {answer.message[:_QUOTED_CHARACTERS]}", again=True)
    if answer.run_result is None and answer.compile_result is None:
        return _Lost(f"the answer {answer.status.value} has no result of any command", again=False)
    return answer


def _verdict(answer: RunCodeResponse, output_bytes: int) -> tuple[CallStatus, str]:
    """Status and observation of a program that ran, or did not compile."""
    command = answer.run_result or answer.compile_result or CommandResult(status=CommandStatus.ERROR)
    error = (command.stderr or "").rstrip().rpartition("\n")[2]
    status = _status(answer.status, command, error)
    told = {
        CallStatus.OK: "",
        CallStatus.TIMEOUT: "out of time",
        CallStatus.OUT_OF_MEMORY: "out of memory",
    }
    reason = told.get(status, error or f"ended with code {command.return_code}")
    return status, observation(command.stdout or "", reason, output_bytes)


def _status(verdict: RunStatus, command: CommandResult, error: str) -> CallStatus:
    if command.status is CommandStatus.TIME_LIMIT_EXCEEDED:
        return CallStatus.TIMEOUT
    if verdict is RunStatus.SUCCESS:
        return CallStatus.OK
    if command.return_code in _KILLED:
        return _KILLED[command.return_code]
    if error.startswith("MemoryError"):
        return CallStatus.OUT_OF_MEMORY
    return CallStatus.DENIED if error.startswith(_DENIALS) else CallStatus.TOOL_ERROR
