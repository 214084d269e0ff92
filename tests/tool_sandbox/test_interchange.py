"""Tool specs in the formats of others: round trips, and what an import refuses."""

from __future__ import annotations

import json
from typing import Any

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_sandbox.errors import InvalidTool
from tool_sandbox.interchange import from_json_schema, from_mcp, from_openai, spec_of, to_json_schema, to_mcp
from tool_sandbox.tools import ToolSpec, Trust

SCALARS: list[dict[str, Any]] = [
    {"type": "string", "minLength": 1},
    {"type": ["integer", "null"], "default": None},
    {"enum": ["a", 2, None]},
    {"type": "array", "prefixItems": [{"type": "number"}], "items": False},
    {"$ref": "#/$defs/place"},
]
PLACE = {"type": "object", "properties": {"city": {"type": "string", "description": "Größe, 名"}}}
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True)


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    properties = draw(st.dictionaries(st.text(min_size=1, max_size=8), st.sampled_from(SCALARS), max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    schema: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "$defs": {"place": PLACE},
    }
    return schema | ({"additionalProperties": False} if draw(st.booleans()) else {})


def specs(**fixed: Any) -> st.SearchStrategy[ToolSpec]:
    parts = {"name": NAMES, "description": st.text(max_size=40), "parameters": schemas(), "read_only": st.booleans()}
    return st.builds(ToolSpec, **parts, **{name: st.just(value) for name, value in fixed.items()})


@given(specs())
def test_an_openai_function_comes_back_as_it_went_out(spec: ToolSpec) -> None:
    wire = json.loads(json.dumps(spec.openai_function()))
    assert from_openai(wire, read_only=spec.read_only) == spec
    assert from_openai(wire["function"], read_only=spec.read_only) == spec


@given(specs(trust=Trust.STATEFUL))
def test_an_mcp_tool_comes_back_as_it_went_out(spec: ToolSpec) -> None:
    assert from_mcp(json.loads(json.dumps(to_mcp(spec))), trust=Trust.STATEFUL) == spec


@given(specs())
def test_the_mcp_package_reads_what_we_export(spec: ToolSpec) -> None:
    tool = mcp_types.Tool.model_validate(to_mcp(spec), by_name=False)
    assert (tool.name, tool.description, tool.input_schema) == (spec.name, spec.description, spec.parameters)
    assert tool.annotations is not None
    assert tool.annotations.read_only_hint is spec.read_only


@given(specs())
def test_a_json_schema_comes_back_as_it_went_out(spec: ToolSpec) -> None:
    assert from_json_schema(json.loads(json.dumps(to_json_schema(spec))), read_only=spec.read_only) == spec


def test_what_mcp_leaves_out_is_read_as_mcp_says() -> None:
    spec = from_mcp({"name": "now", "inputSchema": {"type": "object"}})
    assert (spec.description, spec.read_only, spec.trust) == ("", False, Trust.REMOTE)


def test_an_openai_function_without_parameters_takes_none() -> None:
    assert from_openai({"name": "now"}).parameters == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


GOOD: dict[str, Any] = {"type": "object"}


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (("", "d", GOOD), r"tool '': expected a name of at most 128 letters"),
        (("rm -rf", "d", GOOD), r"tool 'rm -rf': expected a name .*rename it at its source"),
        (("x" * 129, "d", GOOD), r"expected a name of at most 128"),
        ((None, "d", GOOD), r"tool None: expected a name"),
        (("now\n", "d", GOOD), r"expected a name"),
        (("now", 7, GOOD), r"tool 'now': its description is of type int, expected text"),
        (("now", "d", None), r"tool 'now': its parameters are missing, expected a JSON Schema of an object"),
        (
            ("now", "d", {"type": "string"}),
            r"tool 'now': its parameters have the type 'string', expected 'object'; wrap",
        ),
        (("now", "d", {"type": "dict"}), r"have the type 'dict'"),
        (
            ("now", "d", {"type": "object", "properties": {"at": {"type": "float"}}}),
            r"tool 'now': its parameters are not JSON Schema 2020-12: at properties/at/type, 'float' is not valid",
        ),
        (("now", "d", {"type": "object", "required": "at"}), r"at required, 'at' is not of type 'array'"),
    ],
)
def test_an_import_names_the_tool_and_what_is_wrong(parts: tuple[Any, Any, Any], complaint: str) -> None:
    with pytest.raises(InvalidTool, match=complaint):
        spec_of(*parts)


def test_a_schema_of_another_dialect_or_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidTool, match="has no `title`; give the tool's name there"):
        from_json_schema({"type": "object"})
    with pytest.raises(InvalidTool, match=r"tool 'now': its schema is of 'http://json-schema.org/draft-07/schema#'"):
        from_json_schema({"$schema": "http://json-schema.org/draft-07/schema#", "title": "now", "type": "object"})


def test_a_function_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidTool, match="OpenAI function: is of type str, expected an object"):
        from_openai({"type": "function", "function": "now"})
    with pytest.raises(InvalidTool, match="tool 'now': its annotations are of type list"):
        from_mcp({"name": "now", "inputSchema": {"type": "object"}, "annotations": [1]})
