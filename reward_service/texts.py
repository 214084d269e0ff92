"""Texts of the contract: how long one may be, and what becomes of a longer one."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

MAX_CHARACTERS = 65_536
"""Of one text: an observation, an answer, a tool's name."""

Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


def cut(text: str) -> str:
    """`text`, or its beginning and a mark of the cut, together as long as a text may be."""
    if len(text) <= MAX_CHARACTERS:
        return text
    mark = f"… [{len(text) - MAX_CHARACTERS} characters and more cut]"
    return text[: MAX_CHARACTERS - len(mark)] + mark


def _written(value: object) -> object:
    """A number as text; whatever is neither is left to the validation that follows."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number and not (isinstance(value, float) and not math.isfinite(value)) else value


TextOrNumber = Annotated[
    Text,
    BeforeValidator(_written),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_CHARACTERS}, {"type": "number"}]}, "validation"),
]
"""Data sets hold answers as either; inside it is text."""
