"""Tools that run code that the model wrote: each call by itself, or one interpreter for the whole trajectory."""

from __future__ import annotations

from functools import cache

from tool_sandbox.config import SandboxConfig
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

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
    """Run one call of the `python` tool in this process's sandbox.

    Raises:
        IsolationUnavailable: this machine cannot isolate code; nothing was run.
    """
    return _python_sandbox().run(call)


def use_isolation(config: SandboxConfig, level: IsolationLevel) -> None:
    """Run the `python` tool of this process with these budgets, behind a level that was verified."""
    global _chosen
    _chosen = (config, level)
    _python_sandbox.cache_clear()


_chosen: tuple[SandboxConfig, IsolationLevel] | None = None


@cache
def _python_sandbox() -> IsolatedSandbox:
    if _chosen is not None:
        return IsolatedSandbox([PYTHON], *_chosen)
    # Nobody chose and verified before: with the defaults, and not before the canaries were held.
    from tool_sandbox.attacks.canaries import verify

    config = SandboxConfig()
    return IsolatedSandbox([PYTHON], config, verify(config).level)
