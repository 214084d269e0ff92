"""What a result is known by: its kind, the version of what computed it, and a hash of what went in."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, NamedTuple

from pydantic import JsonValue


class Key(NamedTuple):
    """The identity of one result. Two results with one key are interchangeable."""

    kind: Literal["score", "vote"]
    version: str
    """Of everything but the input that decides the result: signals, weights, prompts, models."""
    digest: str
    """`digest_of` the input."""
    ordinal: int = 0
    """Which of several votes on one input."""


def digest_of(value: JsonValue) -> str:
    """SHA-256, in hexadecimal, of `value` as JSON with sorted keys, no spaces and ASCII only.

    Numbers are told apart as they are written: 1 and 1.0 have different digests.

    Raises:
        ValueError: NaN or an infinity, which JSON cannot say.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
