"""The server's side of `/run_code`: a request becomes a call of one tool, its result becomes an answer.

Owns `RUN_CODE_TOOL`, which any `Sandbox` that runs CPython can hold. Pure; knows nothing of FastAPI.
"""

from __future__ import annotations

import base64
import json
import signal
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from tool_sandbox.config import MIB
from tool_sandbox.run_code import (
    PYTHON,
    CommandResult,
    CommandStatus,
    RunCodeRequest,
    RunCodeResponse,
    RunStatus,
)
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec, Trust

_BASE64_BY_PATH = {"type": "object", "additionalProperties": {"type": "string"}}
_SPEC = ToolSpec(
    name="run_code",
    description="Run a Python program with files and standard input of its own.",
    parameters={
        "type": "object",
        "properties": {
            "code": {"type": "string"},
            "stdin": {"type": "string"},
            "files": _BASE64_BY_PATH,
            "fetch_files": {"type": "array", "items": {"type": "string"}},
            "seconds": {"type": "number", "exclusiveMinimum": 0},
            "memory_bytes": {"type": "integer"},
        },
        "required": ["code", "stdin", "files", "fetch_files", "seconds", "memory_bytes"],
        "additionalProperties": False,
    },
    family="code",
    trust=Trust.ISOLATED,
)
_WHERE_UNSAID = {
    CallStatus.OUT_OF_MEMORY: 128 + signal.SIGKILL,
    CallStatus.DENIED: 128 + signal.SIGSYS,
}
"""Return codes where the program was killed before it could report one."""


def call_of(request: RunCodeRequest) -> ToolCall:
    """The call that runs a request; its id is the mark before the report."""
    arguments = {
        "code": request.code,
        "stdin": request.stdin or "",
        "files": {path: content for path, content in request.files.items() if content is not None},
        "fetch_files": list(request.fetch_files),
        "seconds": request.run_timeout,
        "memory_bytes": request.memory_limit_mb * MIB if request.memory_limit_mb > 0 else 0,
    }
    return ToolCall(uuid.uuid4().hex, _SPEC.name, arguments)


def refusal(request: RunCodeRequest) -> str | None:
    """Why a request is not served here; None where it is."""
    if request.language != PYTHON:
        return f"language {request.language[:40]!r} is not served here; this service runs {PYTHON!r} only"
    broken = [path for path, content in request.files.items() if content is not None and not _is_base64(content)]
    if broken:
        return f"files: the content of {broken[0][:80]!r} is not base64"
    return None


def failure(message: str) -> RunCodeResponse:
    """The answer where the service failed, or does not serve what was asked for."""
    return RunCodeResponse(status=RunStatus.SANDBOX_ERROR, message=message)


def answer(result: ToolResult) -> RunCodeResponse:
    """The answer that a call's result amounts to."""
    if result.status in (CallStatus.INFRA_ERROR, CallStatus.INVALID_ARGUMENTS, CallStatus.UNKNOWN_TOOL):
        return failure(result.content)
    stdout, report = _split(result)
    if result.status is CallStatus.TIMEOUT or report["timed_out"]:
        status, code = CommandStatus.TIME_LIMIT_EXCEEDED, None
    else:
        status, code = CommandStatus.FINISHED, report["return_code"]
    command = CommandResult(
        status=status,
        execution_time=result.wall_seconds,
        return_code=code,
        stdout=stdout,
        stderr=report["stderr"],
    )
    verdict = RunStatus.SUCCESS if code == 0 else RunStatus.FAILED
    return RunCodeResponse(status=verdict, message="", run_result=command, files=report["files"])


def _is_base64(content: str) -> bool:
    try:
        base64.b64decode(content, validate=True)
    except ValueError:
        return False
    return True


def _source(call: ToolCall) -> str:
    return f"{_program()}\nserve(**{dict(call.arguments)!r}, mark={_mark(call.id)!r})\n"


@cache
def _program() -> str:
    return (Path(__file__).parent / "run_code_program.py").read_text(encoding="utf-8")


def _mark(call_id: str) -> str:
    return f"[{call_id}]"


def _split(result: ToolResult) -> tuple[str, dict[str, Any]]:
    """What the program printed, and its report; a program that was killed, or printed too much, left none."""
    stdout, mark, rest = result.content.partition(_mark(result.call_id))
    if mark:
        try:
            report, _ = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            # The report itself was cut.
            return stdout, _unsaid(result.status, "")
        return stdout, report
    printed, _, last = result.content.rpartition("\n")
    if last.startswith("error: "):
        return printed, _unsaid(result.status, last.removeprefix("error: "))
    return result.content, _unsaid(result.status, "")


def _unsaid(status: CallStatus, stderr: str) -> dict[str, Any]:
    code = 0 if status is CallStatus.OK else _WHERE_UNSAID.get(status, 1)
    return {"return_code": code, "timed_out": False, "stderr": stderr, "files": {}}


RUN_CODE_TOOL = CodeTool(_SPEC, _source)
"""What a sandbox must hold to serve `/run_code`."""
