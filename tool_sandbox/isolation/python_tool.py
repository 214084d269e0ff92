"""Tools that run code that the model wrote: each call by itself, or one interpreter for the whole trajectory."""

from __future__ import annotations

from functools import cache

from tool_sandbox.config import SandboxConfig
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import reach
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import ToolCall, ToolResult, ToolSpec, Trust

CODE_CHARACTERS = 20_000

_PARAMETERS = {
    "type": "object",
    "properties": {"code": {"type": "string", "minLength": 1, "maxLength": CODE_CHARACTERS}},
    "required": ["code"],
    "additionalProperties": False,
}
PYTHON_SPEC = ToolSpec(
    name="python",
    description="Run Python code and give back what it prints.",
    parameters=_PARAMETERS,
    family="code",
    trust=Trust.ISOLATED,
)
NOTEBOOK_SPEC = ToolSpec(
    name="notebook",
    description="Run Python code in an interpreter that remembers variables and files; shows the last value.",
    parameters=_PARAMETERS,
    family="code",
    trust=Trust.STATEFUL,
)


def _code(call: ToolCall) -> str:
    return str(call.arguments["code"])


PYTHON = CodeTool(PYTHON_SPEC, _code)
NOTEBOOK = CodeTool(NOTEBOOK_SPEC, _code)


def run_python(call: ToolCall) -> ToolResult:
    """Run one call of the `python` tool in this process's default sandbox."""
    return default_python_sandbox().run(call)


@cache
def default_python_sandbox() -> IsolatedSandbox:
    """The sandbox of the `python` tool with default limits, made when it is first needed; one per process.

    Raises:
        IsolationUnavailable: this machine cannot isolate code.
    """
    config = SandboxConfig()
    return IsolatedSandbox([PYTHON], config, reach(config).level)
