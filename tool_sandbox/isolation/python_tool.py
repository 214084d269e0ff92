"""Tools that run code that the model wrote: each call by itself, or one interpreter for the whole trajectory."""

from __future__ import annotations

from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import ToolCall, ToolSpec, Trust

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
