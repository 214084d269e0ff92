"""How a sandboxed call ended, as a typed result: the model's doing, or ours.

Consumes the reply of the sandbox's supervisor (`inside.zygote`). Nothing that the model's process says or does can turn
into `INFRA_ERROR`: an error of ours is no fault of the model, so code that could claim one would escape its reward.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from tool_sandbox.isolation.inside.supervision import BROKEN, CPU, FILES, MEMORY, STARVED, WALL
from tool_sandbox.rendering import CUT_MARKER
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult

_STOPPED = {
    CPU: (CallStatus.TIMEOUT, "out of time"),
    WALL: (CallStatus.TIMEOUT, "out of time"),
    MEMORY: (CallStatus.OUT_OF_MEMORY, "out of memory"),
    FILES: (CallStatus.DENIED, "out of disk"),
    BROKEN: (CallStatus.TOOL_ERROR, "the interpreter broke"),
    STARVED: (CallStatus.INFRA_ERROR, "the sandbox got no CPU"),
}
_BY_EXIT = {
    70: (CallStatus.OUT_OF_MEMORY, "out of memory"),
    -signal.SIGXCPU: (CallStatus.TIMEOUT, "out of time"),
}
_DENIED = (71, -signal.SIGSYS)
"""Exit codes are those of `inside.code` and of signals; every other one is an error of the code itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status and what the model is told of it."""

    status: CallStatus
    error: str


def result(
    call: ToolCall, reply: dict[str, Any], cpu_limit: float, level: IsolationLevel, queue_seconds: float = 0.0
) -> ToolResult:
    """The result of a call that a sandbox ran. `cpu_limit`: seconds that it was allowed."""
    verdict = judge(reply, cpu_limit)
    return ToolResult(
        call.id,
        verdict.status,
        _content(reply, verdict),
        reply["cpu_seconds"],
        reply["wall_seconds"],
        level,
        queue_seconds,
    )


def judge(reply: dict[str, Any], cpu_limit: float) -> Verdict:
    """What the facts say, strongest first: was it run at all, was it stopped, did it end by itself."""
    if not reply["caged"] and reply["stopped"] is None:
        return Verdict(CallStatus.INFRA_ERROR, f"the sandbox did not close: {reply['stderr'].strip()[-200:]}")
    lost = "; what the session knew is lost" if reply["alive"] is False else ""
    verdict = _of_the_facts(reply, cpu_limit)
    return Verdict(verdict.status, verdict.error + lost)


def _of_the_facts(reply: dict[str, Any], cpu_limit: float) -> Verdict:
    if reply["stopped"] is not None:
        return Verdict(*_STOPPED[reply["stopped"]])
    if reply["cpu_seconds"] >= cpu_limit:
        return Verdict(CallStatus.TIMEOUT, "out of time")
    code, said = _reported(reply)
    # A session's interpreter lives on; code that ended it, with whatever exit code, did something wrong.
    if code == 0 and reply["alive"] is not False:
        return Verdict(CallStatus.OK, "")
    if code in _BY_EXIT:
        return Verdict(*_BY_EXIT[code])
    return Verdict(CallStatus.DENIED if code in _DENIED else CallStatus.TOOL_ERROR, said or _ended_with(code))


def _reported(reply: dict[str, Any]) -> tuple[int, str]:
    """Exit code and error line. The report comes from the model's own process, so it is taken for what it may be."""
    report = reply["report"] or {}
    code = report.get("code", 0) if reply["exit_status"] is None else reply["exit_status"]
    return (code if type(code) is int else 1), str(report.get("error", ""))


def _ended_with(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"ended by signal {-code}"


def _content(reply: dict[str, Any], verdict: Verdict) -> str:
    output = reply["stdout"] + (CUT_MARKER if reply["truncated"] else "")
    output = output.rstrip("\n")
    return output if verdict.status is CallStatus.OK else f"{output}\nerror: {verdict.error}".lstrip("\n")
