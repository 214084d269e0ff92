"""A list of tools of every trust, for `test_tiers`."""

from __future__ import annotations

from dataclasses import dataclass

from tool_sandbox.functions import SessionState, tool
from tool_sandbox.isolation.python_tool import NOTEBOOK, PYTHON
from tool_sandbox.language import CALCULATE
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import ToolCall, ToolSpec, Trust


@dataclass
class Purse(SessionState):
    """What the functions work on."""

    coins: int = 0


@tool(read_only=False)
def earn(purse: Purse, coins: int) -> int:
    """Add coins; gives how many there are."""
    purse.coins += coins
    return purse.coins


def _double(call: ToolCall) -> str:
    return f"print(2 * {call.arguments['number']})"


DOUBLE = CodeTool(
    ToolSpec(
        name="double",
        description="Twice a number.",
        parameters={"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
        trust=Trust.ISOLATED,
    ),
    _double,
)
TOOLS = [earn, CALCULATE, PYTHON, DOUBLE, NOTEBOOK]
TWICE = [PYTHON, PYTHON]
