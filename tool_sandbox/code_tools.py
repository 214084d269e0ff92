"""What the tiers that run code have in common: finding the tool of a call, and cutting its output.

Knows nothing of any tier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.errors import InvalidTool
from tool_sandbox.rendering import CUT_MARKER
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, Trust

_NAME_CHARACTERS = 20


def by_name(tools: Sequence[CodeTool], trust: Trust) -> dict[str, CodeTool]:
    """The tools of one tier.

    Raises:
        InvalidTool: a tool declares another trust, or two have one name.
    """
    named: dict[str, CodeTool] = {}
    for tool in tools:
        name = tool.spec.name
        if tool.spec.trust is not trust:
            found = tool.spec.trust.value
            raise InvalidTool(f"tool {name!r}: declares trust {found!r}; this tier runs {trust.value!r}")
        if name in named:
            raise InvalidTool(f"tool {name!r}: declared twice; give each tool of a tier a name of its own")
        named[name] = tool
    return named


def admit(tools: Mapping[str, CodeTool], call: ToolCall) -> CodeTool | ToolResult:
    """The tool that runs `call`, or the result of a call that names none or does not fit its schema."""
    tool = tools.get(call.name)
    if tool is None:
        return ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:_NAME_CHARACTERS]}")
    complaint = check_arguments(tool.spec, call)
    return tool if complaint is None else invalid_arguments(call, complaint)


def observation(output: str, error: str, output_bytes: int) -> str:
    """What the model reads: the output, cut to `output_bytes` of UTF-8 with a marker, then the error, if any."""
    encoded = output.encode(errors="replace")
    kept = encoded[:output_bytes].decode(errors="ignore") + (CUT_MARKER if len(encoded) > output_bytes else "")
    kept = kept.rstrip("\n")
    # An error may quote the output, so it has the same bound.
    return f"{kept}\nerror: {error[:output_bytes]}".lstrip("\n") if error else kept
