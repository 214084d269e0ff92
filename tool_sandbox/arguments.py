"""Are the arguments of a call what the tool's JSON Schema asks for?

Consumes a `ToolSpec` and a `ToolCall`; produces a complaint in a few words, because its reader may be a small model
with a short context. Knows nothing of sessions.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec

COMPLAINT_CHARACTERS = 60


def check_arguments(spec: ToolSpec, call: ToolCall) -> str | None:
    """The complaint about the arguments of `call`, such as `price needs item`; None where they fit the schema."""
    validator = _validator(json.dumps(dict(spec.parameters), sort_keys=True))
    try:
        errors = list(validator.iter_errors(dict(call.arguments)))
    except RecursionError:
        return f"{spec.name}: arguments are nested too deep"
    # What is missing helps the model more than what is too much.
    error = best_match([error for error in errors if error.validator == "required"] or errors)
    return None if error is None else _complaint(spec, error)[:COMPLAINT_CHARACTERS]


def invalid_arguments(call: ToolCall, complaint: str) -> ToolResult:
    """The result of a call that was never run because its arguments do not fit."""
    return ToolResult(call.id, CallStatus.INVALID_ARGUMENTS, f"error: {complaint}")


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Draft202012Validator:
    parameters = json.loads(schema)
    Draft202012Validator.check_schema(parameters)
    return Draft202012Validator(parameters)


def _complaint(spec: ToolSpec, error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or spec.name
    # Typed loosely because a schema may be a boolean; these two keywords only occur in mappings.
    schema: Any = error.schema
    given: Any = error.instance
    if error.validator == "required":
        missing = [name for name in schema["required"] if name not in given]
        return f"{where} needs {' and '.join(missing)}"
    if error.validator == "additionalProperties":
        extra = [name for name in given if name not in schema.get("properties", {})]
        return f"{where} has no {' or '.join(extra)}"
    if error.validator == "type":
        return f"{where} must be {error.validator_value}"
    return f"{where}: {error.message}"
