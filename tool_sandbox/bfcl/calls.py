"""The ground truth's calls, which the package writes as Python text, as tool calls. Parsed, never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from tool_sandbox.errors import InvalidToolset
from tool_sandbox.tools import ToolCall, ToolSpec


def parse_call(text: str, specs: Mapping[str, ToolSpec], id: str) -> ToolCall:
    """One call such as `cd(folder='x')`; arguments without a name take the names of the tool's parameters in order.

    Raises:
        InvalidToolset: the text is not one call of a documented tool with literal arguments.
    """
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in specs:
            raise ValueError("not a call of a documented tool")
        names = list(specs[call.func.id].parameters["properties"])
        positional = dict(zip(names, (_literal(node) for node in call.args), strict=False))
        named = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise InvalidToolset(
            f"bfcl: ground-truth call {text!r}: {error}; expected tool(name=literal, …); "
            "is this another version of bfcl-eval than the extra `bfcl` asks for?"
        ) from error
    return ToolCall(id, call.func.id, positional | named)


def _literal(node: ast.expr) -> Any:
    """A value as JSON would have given it."""
    return _jsonable(ast.literal_eval(node))


def _jsonable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    return value
