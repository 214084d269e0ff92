"""What a model was told of its tools, as OpenAI's `tools` have it. Judges read it; rules do not.

Owns `ToolItem`, which takes the tools as they are: fields that say nothing to a judge (`return`, `cache_control`, …)
are not read, and null is nothing.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from reward_service.texts import Text


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class FunctionItem(_Read):
    """What a model is told of one function."""

    name: Text
    description: str | None = ""
    parameters: dict[str, JsonValue] | None = {}
    strict: bool | None = None


class ToolItem(_Read):
    """One tool that the model could call."""

    type: Annotated[str, Field(max_length=64)] | None = "function"
    function: FunctionItem | None = None
    """Null of tools of other types, of which a judge is told nothing."""
