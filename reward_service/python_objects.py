"""Objects as Python writes them, read as far as they are flat: many tools hand `str(result)` to the model, not JSON.

Owns `written_by_python`. Pure, and linear in the text. Not `ast.literal_eval`: text of others may be cut short, and may
be nested deeper than Python's own parser can go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_BEGIN = re.compile(r"\s*\{\s*(?=')")
_LIST = re.compile(r"\s*\[")
_ENTRY = re.compile(
    r"""\s*'(?P<key>\w{1,64})'\s*:\s*(?:
        '(?P<single>(?:[^'\\]|\\.)*+)(?:'|\Z)
      | "(?P<double>(?:[^"\\]|\\.)*+)(?:"|\Z)
      | (?P<empty>\[\]|\(\)|\{\})
      | (?P<word>[\w.+-]++)
      | (?P<nested>[\[({])
    )\s*(?P<end>,|\}\s*,?)?""",
    re.DOTALL | re.VERBOSE,
)
_CONSTANTS = {"None": None, "True": True, "False": False}
NESTED: Mapping[str, Any] = {"nested": True}
"""Stands for a value that is nested and was not read: there is something in it."""


def written_by_python(text: str) -> list[Mapping[str, Any]]:
    """The object that `text` is, or those of the list that it is; none where it begins with neither.

    Ends with the first value that is nested; fields behind it are not read.
    """
    found: list[Mapping[str, Any]] = []
    bracket = _LIST.match(text)
    place = bracket.end() if bracket else 0
    while begun := _BEGIN.match(text, place):
        fields, end, place = _fields(text, begun.end())
        found.append(fields)
        if not end.endswith(","):
            break
    return found


def _fields(text: str, place: int) -> tuple[dict[str, Any], str, int]:
    """The fields of the object whose entries begin at `place`, how it ends, and where."""
    fields: dict[str, Any] = {}
    end = ","
    while end == "," and (entry := _ENTRY.match(text, place)):
        fields[entry["key"]] = _value(entry)
        place, end = entry.end(), entry["end"] or ""
    return fields, "" if end == "," else end, place


def _value(entry: re.Match[str]) -> Any:
    if entry["nested"]:
        return NESTED
    word = entry["word"]
    if word is None:
        return entry["single"] or entry["double"] or ""
    return _CONSTANTS[word] if word in _CONSTANTS else int(word) if word.isdecimal() else word
