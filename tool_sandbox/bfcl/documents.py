"""The package's function documents as tool specs: its dialect of types becomes JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from tool_sandbox.bfcl.package import CLASSES, function_documents
from tool_sandbox.tools import ToolSpec

_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "bool": "boolean",
    "int": "integer",
    "str": "string",
}
"""Names of types that JSON Schema spells otherwise."""
_LARGEST = {"precision": 1000, "decimal_places": 1000, "base": 10**15, "exponent": 10_000}
"""Bounds on parameters by which one call could occupy the process for hours. No task comes near them."""


@cache
def tool_specs() -> Mapping[str, ToolSpec]:
    """Every documented function of the eight classes, by name; the class is its family."""
    return {document["name"]: _spec(document, family=name) for name in CLASSES for document in function_documents(name)}


@cache
def callable_specs() -> Mapping[str, ToolSpec]:
    """What a call is held to before it runs: names and bounds. Types are the function's own business.

    The package checks no types, and even the ground truth hands over a wrong one (`multi_turn_base_173`).
    """
    return {name: replace(spec, parameters=_names_and_bounds(spec.parameters)) for name, spec in tool_specs().items()}


def _spec(document: Mapping[str, Any], family: str) -> ToolSpec:
    parameters = _schema(document["parameters"])
    for name, largest in _LARGEST.items():
        if name in parameters["properties"]:
            parameters["properties"][name] |= {"minimum": -largest, "maximum": largest}
    return ToolSpec(
        name=document["name"],
        description=document["description"],
        parameters=parameters | {"additionalProperties": False},
        family=family,
        # The documents do not say which functions write.
        read_only=False,
    )


def _schema(dialect: Mapping[str, Any]) -> dict[str, Any]:
    schema = dict(dialect)
    if "type" in schema:
        schema["type"] = _TYPES.get(schema["type"], schema["type"])
    if "properties" in schema:
        schema["properties"] = {name: _schema(each) for name, each in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _schema(schema["items"])
    return schema


def _names_and_bounds(parameters: Mapping[str, Any]) -> dict[str, Any]:
    bounds = ("minimum", "maximum")
    properties = {
        name: {key: schema[key] for key in bounds if key in schema} for name, schema in parameters["properties"].items()
    }
    return {**parameters, "properties": properties}
