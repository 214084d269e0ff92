"""JSON as RFC 8259 has it and no more: UTF-8, finite numbers, each key once, whole characters, and a bounded depth.

Python's own parser takes NaN, half of a surrogate pair and repeated keys, and nests as deep as its stack. What it lets
through breaks later, where nobody expects it: half a pair cannot be written as UTF-8 again.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from itertools import accumulate
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Of arrays and objects inside each other."""

_WINDOW_BYTES = 64 * 1024
"""Looked at together; bounds the memory that a body of quotation marks takes."""
_ENDS = bytes(range(256)).translate(bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff"))
_NO_ENDS = bytes(byte for byte in range(256) if byte not in b"[{]}")
_HEX = rb"[0-9a-fA-F]"
_HIGH, _LOW = rb"\\u[dD][89abAB]%b{2}" % _HEX, rb"\\u[dD][c-fC-F]%b{2}" % _HEX
# Both halves after one beginning that is literal, which is what makes the search fast.
_HALF_A_PAIR = re.compile(rb"\\u[dD](?:[89abAB]%b{2}(?!%b)|[c-fC-F]%b{2}(?<!%b%b))" % (_HEX, _LOW, _HEX, _HIGH, _LOW))
_SHOWN_CHARACTERS = 64


def loads(body: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """Parse one document. Depth and characters are checked before, in time and memory linear in the body.

    Raises:
        json.JSONDecodeError: it is none. The error does not hold the document.
    """
    # What is escaped ends no string. Same length, so that nothing moves together that was apart.
    plain = body.replace(rb"\\", b"__").replace(rb"\"", b"__")
    try:
        if _depth(plain) > max_depth:
            raise ValueError(f"found arrays and objects nested deeper than {max_depth}; expected at most that")
        if _HALF_A_PAIR.search(plain):
            raise ValueError("found half of a surrogate pair; expected whole characters")
        text = body.decode("utf-8-sig")
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, "", error.pos) from None
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("found bytes that are not UTF-8", "", error.start) from None
    except ValueError as error:
        raise json.JSONDecodeError(str(error), "", 0) from None


def _depth(plain: bytes) -> int:
    """How deep arrays and objects nest, by their brackets outside strings; exact up to where the JSON is broken."""
    deepest = level = 0
    in_string = False
    for start in range(0, len(plain), _WINDOW_BYTES):
        parts = plain[start : start + _WINDOW_BYTES].split(b'"')
        outside = b"".join(parts[in_string::2])
        levels = list(accumulate(array("b", outside.translate(_ENDS, _NO_ENDS)), initial=level))
        deepest, level = max(deepest, max(levels)), levels[-1]
        in_string ^= len(parts) % 2 == 0
    return deepest


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"found {name}; expected a finite number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("found a number beyond the range of a double; expected a finite number")
    return number


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"found the key {twice[:_SHOWN_CHARACTERS]!r} more than once in one object; name each once")
    return found
