"""Text of others, made harmless to show: no control characters, no chat markers, no quotes that could end early.

Pure. The characters are replaced, not removed: what was split by an invisible character stays split.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"
_KEPT = frozenset("\n\t")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Control, format (zero width, direction, tags), half of a surrogate pair, private, unassigned."""
_SQUARE_MARKER = re.compile(
    r"\[(?=/?\s*(?:INST|SYS|SYSTEM|ASSISTANT|USER|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\s*\])"
)


def neutral(text: str) -> str:
    """`text` with every character that one cannot see replaced, but for newlines and tabs."""
    return "".join(REPLACEMENT if _hides(character) else character for character in text)


def quoted(value: Any) -> str:
    """`value` as one line of JSON in which no marker of a chat format can stand.

    Such markers begin with `<`, or are a word in square brackets. A tokenizer takes `<|im_end|>` for the end of a
    message even inside a string, so `<` and those brackets are written as escapes.
    """
    line = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return _SQUARE_MARKER.sub(r"\\u005b", line.replace("<", "\\u003c"))


def rows(values: Sequence[Any]) -> str:
    """A JSON list with one value a line."""
    return "[\n" + ",\n".join(map(quoted, values)) + "\n]"


def _hides(character: str) -> bool:
    return character not in _KEPT and unicodedata.category(character) in _HIDDEN
