"""JSON as RFC 8259 has it: what is taken, what is refused, and that nothing else happens."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_sandbox.http.strict_json import MAX_DEPTH, loads

NASTY = st.text(st.sampled_from('[]{}"\\u,: aé𝄞\n'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NASTY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NASTY, inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    """By the definition: arrays and objects inside each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(VALUES, st.booleans())
def test_what_python_writes_is_read_back(value, ascii_only):
    assert loads(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(VALUES, st.booleans())
def test_the_depth_is_that_of_arrays_and_objects_whatever_strings_hold(value, ascii_only):
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert loads(body, depth(value)) == value
    if depth(value) > 0:
        with pytest.raises(json.JSONDecodeError, match="nested deeper than"):
            loads(body, depth(value) - 1)


@given(st.binary() | st.lists(st.sampled_from([b'"', b"\\", b"[", b"]", b"{", b"}", b":", b"1", b","])).map(b"".join))
def test_any_bytes_are_parsed_as_python_does_or_refused(body):
    refused: json.JSONDecodeError | None = None
    found: Any = None
    try:
        found = loads(body)
    except json.JSONDecodeError as error:
        refused = error
    if refused is None:
        assert found == json.loads(body)
    else:
        assert refused.doc == ""


@given(st.lists(st.sampled_from([b"\\ud83d", b"\\uDE00", b"\\\\", b"\\u0041", b"a", b'\\"']), max_size=8))
def test_half_a_surrogate_pair_is_refused_and_only_that(parts):
    body = b'["' + b"".join(parts) + b'"]'
    (text,) = json.loads(body)
    whole = not any(0xD800 <= ord(character) <= 0xDFFF for character in text)
    if whole:
        assert loads(body) == [text]
    else:
        with pytest.raises(json.JSONDecodeError, match="half of a surrogate pair"):
            loads(body)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_sixty_four_levels_are_taken_and_one_more_is_not():
    assert MAX_DEPTH == 64
    assert depth(loads(nested(64))) == 64
    with pytest.raises(json.JSONDecodeError, match="nested deeper than 64"):
        loads(nested(65))


def test_levels_are_counted_across_the_whole_of_a_long_body():
    filler = b'"' + b'[\\"' * 50_000 + b'",'
    with pytest.raises(json.JSONDecodeError, match="nested deeper than 64"):
        loads(b"[" + filler + b'{"a":' * 64)
    assert depth(loads(b"[" + filler + b'{"a":' * 63 + b"1" + b"}" * 63 + b"]")) == 64


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[NaN]", "found NaN; expected a finite number"),
        (b"[-Infinity]", "found -Infinity; expected a finite number"),
        (b"[1e999]", "beyond the range of a double"),
        (b"[" + b"1" * 5000 + b"]", "4300 digits"),
        (b'{"a": 1, "a": 1}', "found the key 'a' more than once"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "found the key 'a' more than once"),
        ('["é"]'.encode("latin-1"), "found bytes that are not UTF-8"),
        ('["a"]'.encode("utf-16"), "found bytes that are not UTF-8"),
        (b'["\xed\xa0\x80"]', "found bytes that are not UTF-8"),
        (b"", "Expecting value"),
        (b"[1] [2]", "Extra data"),
    ],
)
def test_what_is_no_json_says_why(body, reason):
    with pytest.raises(json.JSONDecodeError, match=reason):
        loads(body)


def test_a_byte_order_mark_is_ignored():
    assert loads(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize("piece", [b'"', b'"aa', b"\\", b'\\"', b"[", b"[]", b'""', b"\\ud83d"])
def test_the_checks_before_parsing_take_no_more_memory_than_a_few_bodies(piece):
    body = piece * (4 * 2**20 // len(piece))
    tracemalloc.start()
    try:
        with pytest.raises(json.JSONDecodeError):
            loads(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(body)
