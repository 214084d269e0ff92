"""Tool specs in the formats of others: OpenAI functions, MCP tools, plain JSON Schema. Import checks, export is exact.

Consumes and produces JSON-able mappings; knows neither HTTP nor an MCP client. The way out to OpenAI's format is
`ToolSpec.openai_function`. What another format cannot say is lost on
the way out (MCP has no families, OpenAI no `read_only`) and given by the caller on the way in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from tool_sandbox.errors import InvalidTool
from tool_sandbox.tools import ToolSpec, Trust

NAME_CHARACTERS = 128
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


def spec_of(
    name: Any,
    description: Any,
    parameters: Any,
    *,
    family: str = "",
    trust: Trust = Trust.IN_PROCESS,
    read_only: bool = True,
) -> ToolSpec:
    """A spec whose parts came from outside, checked.

    Raises:
        InvalidTool: the name is not one, the description is not text, the schema is not one of an object.
    """
    _check_name(name)
    if not isinstance(description, str):
        raise InvalidTool(f"tool {name!r}: its description is {_kind(description)}, expected text")
    return ToolSpec(name, description, _checked_schema(name, parameters), family, trust, read_only)


def from_openai(function: Mapping[str, Any], *, trust: Trust = Trust.IN_PROCESS, read_only: bool = True) -> ToolSpec:
    """A spec from `{"type": "function", "function": {...}}`, or from the inner mapping alone. Raises `InvalidTool`.

    A function without `parameters` takes none.
    """
    wrapped = function.get("type") == "function" and "function" in function
    inner = function["function"] if wrapped else function
    if not isinstance(inner, Mapping):
        raise InvalidTool(f"OpenAI function: is {_kind(inner)}, expected an object with `name` and `parameters`")
    parameters = inner.get("parameters", _NO_PARAMETERS)
    return spec_of(inner.get("name"), inner.get("description", ""), parameters, trust=trust, read_only=read_only)


def from_mcp(tool: Mapping[str, Any], *, trust: Trust = Trust.REMOTE) -> ToolSpec:
    """A spec from one entry of `tools/list`. Raises `InvalidTool`.

    As MCP has it, a tool that does not claim `readOnlyHint` may write.
    """
    annotations = tool.get("annotations") or {}
    if not isinstance(annotations, Mapping):
        raise InvalidTool(f"tool {tool.get('name')!r}: its annotations are {_kind(annotations)}, expected an object")
    description = tool.get("description") or ""
    read_only = annotations.get("readOnlyHint") is True
    return spec_of(tool.get("name"), description, tool.get("inputSchema"), trust=trust, read_only=read_only)


def to_mcp(spec: ToolSpec) -> dict[str, Any]:
    """The spec as an entry of `tools/list`."""
    return {
        "name": spec.name,
        "description": spec.description,
        "inputSchema": dict(spec.parameters),
        "annotations": {"readOnlyHint": spec.read_only},
    }


def from_json_schema(schema: Mapping[str, Any], *, trust: Trust = Trust.IN_PROCESS, read_only: bool = True) -> ToolSpec:
    """A spec from a schema that carries its tool's name as `title` and its description. Raises `InvalidTool`."""
    name = schema.get("title")
    if name is None:
        raise InvalidTool("JSON Schema: has no `title`; give the tool's name there")
    parameters = {key: value for key, value in schema.items() if key not in ("$schema", "title", "description")}
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise InvalidTool(f"tool {name!r}: its schema is of {schema['$schema']!r}, expected {DIALECT!r}")
    return spec_of(name, schema.get("description", ""), parameters, trust=trust, read_only=read_only)


def to_json_schema(spec: ToolSpec) -> dict[str, Any]:
    """The schema of the arguments, with the tool's name as `title` and its description.

    A title or a description that the schema itself had on top gives way to them.
    """
    return {**spec.parameters, "$schema": DIALECT, "title": spec.name, "description": spec.description}


_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS:
        raise InvalidTool(
            f"tool {name!r}: expected a name of at most {NAME_CHARACTERS} letters, digits, `_`, `-` and `.`, beginning "
            "with a letter, a digit or `_`; rename it at its source"
        )


def _checked_schema(name: str, parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping):
        raise InvalidTool(f"tool {name!r}: its parameters are {_kind(parameters)}, expected a JSON Schema of an object")
    if parameters.get("type") != "object":
        raise InvalidTool(
            f"tool {name!r}: its parameters have the type {parameters.get('type')!r}, expected 'object'; wrap them in "
            "an object whose properties they are"
        )
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path) or "the top"
        raise InvalidTool(
            f"tool {name!r}: its parameters are not JSON Schema 2020-12: at {where}, {error.message}; correct it"
        ) from error
    return dict(parameters)


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
