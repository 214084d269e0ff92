"""The `python` tool: runs code that the model wrote, and turns how it ended into a typed result."""

from __future__ import annotations

import json
import signal
from functools import cache

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.config import SandboxConfig
from tool_sandbox.isolation.launcher import Ended, Launcher, payload_source
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec, Trust

CODE_CHARACTERS = 20_000
CUT_MARKER = "\n[output cut]"

PYTHON_SPEC = ToolSpec(
    name="python",
    description="Run Python code and give back what it prints.",
    parameters={
        "type": "object",
        "properties": {"code": {"type": "string", "minLength": 1, "maxLength": CODE_CHARACTERS}},
        "required": ["code"],
        "additionalProperties": False,
    },
    family="code",
    trust=Trust.ISOLATED,
)

_CPU_USED_UP = 128 + signal.SIGXCPU
_BY_EXIT_CODE = {
    0: CallStatus.OK,
    70: CallStatus.OUT_OF_MEMORY,
    71: CallStatus.DENIED,
    _CPU_USED_UP: CallStatus.TIMEOUT,
    128 + signal.SIGSYS: CallStatus.DENIED,
}
"""Exit codes of `payload.py` and of signals; every other one is an error of the code itself."""


class PythonTool:
    """Runs calls of the `python` tool, each in a fresh sandbox. Safe to use from many threads."""

    def __init__(self, config: SandboxConfig) -> None:
        """Raises `IsolationUnavailable` where this machine cannot isolate code."""
        self._config = config
        self._launcher = Launcher(config)
        self._payload = payload_source()

    def __call__(self, call: ToolCall) -> ToolResult:
        """Run one call; blocks for at most `wall_seconds`."""
        complaint = check_arguments(PYTHON_SPEC, call)
        if complaint is not None:
            return invalid_arguments(call, complaint)
        ended = self._launcher.run(["-c", self._payload], str(call.arguments["code"]).encode())
        status = _status(ended)
        error, cpu_seconds = _report(ended)
        if ended.exit_code == _CPU_USED_UP:
            cpu_seconds = float(self._config.cpu_seconds)
        content = _content(ended, status, error)
        return ToolResult(call.id, status, content, ended.cpu_seconds + cpu_seconds, ended.wall_seconds)


@cache
def default_python_tool() -> PythonTool:
    """The tool with default limits, made when it is first needed."""
    return PythonTool(SandboxConfig())


def _status(ended: Ended) -> CallStatus:
    if ended.deadline_passed:
        return CallStatus.TIMEOUT
    if ended.exit_code is None:
        return CallStatus.INFRA_ERROR
    return _BY_EXIT_CODE.get(ended.exit_code, CallStatus.TOOL_ERROR)


def _report(ended: Ended) -> tuple[str, float]:
    """The error and the CPU seconds that `payload.py` reported last; code that was killed reported neither."""
    last = ended.stderr.decode(errors="replace").rstrip("\n").rsplit("\n", 1)[-1]
    try:
        report = json.loads(last)
        return str(report["error"]), float(report["cpu_seconds"])
    except (ValueError, TypeError, KeyError):
        return last or f"ended with code {ended.exit_code}", 0.0


def _content(ended: Ended, status: CallStatus, error: str) -> str:
    output = ended.stdout.decode(errors="replace")
    if ended.truncated:
        output += CUT_MARKER
    output = output.rstrip("\n")
    if status is CallStatus.OK:
        return output
    fixed = {
        CallStatus.TIMEOUT: "out of time",
        CallStatus.OUT_OF_MEMORY: "out of memory",
        CallStatus.INFRA_ERROR: f"the sandbox did not start: {error}",
    }
    return f"{output}\nerror: {fixed.get(status, error)}".lstrip("\n")
