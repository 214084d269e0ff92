"""How values become text: canonical JSON, its hash, and a cap whose cut can be seen.

Pure. Equal values give equal text in every process, whatever the order of their keys, sets and fields.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

OUTPUT_CHARACTERS = 4096
"""Characters of one result that are kept where a tool names no cap of its own."""
CUT_MARKER = "\n[output cut]"


def canonical_json(value: Any) -> str:
    """One line of JSON with sorted keys and no spaces.

    Takes what JSON, pydantic and dataclasses know: dates, decimals, enumerations, sets (sorted), objects (by field).

    Raises:
        TypeError: something in `value` has no form in JSON, such as an open file; the message names its type.
        ValueError: `value` is nested too deep, or contains itself.
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except RecursionError as error:
        raise ValueError(f"a {type(value).__name__} that is nested too deep") from error


def digest(value: Any) -> str:
    """blake2b (128 bits, hexadecimal) over the canonical JSON of `value`. Raises what `canonical_json` raises."""
    # A model may write half a surrogate pair, and a tool may keep it.
    encoded = canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def capped(text: str, characters: int) -> str:
    """`text`, or its first `characters` and a marker."""
    return text if len(text) <= characters else text[:characters] + CUT_MARKER


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=canonical_json)
    if isinstance(value, BaseModel):
        return {name: _plain(item) for name, item in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _leaf(value)


def _key(key: Any) -> str:
    return key if type(key) is str else canonical_json(key)


def _leaf(value: Any) -> Any:
    """A date, a decimal, an enumeration, …: what pydantic can write as JSON."""
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} has no form in JSON") from error
