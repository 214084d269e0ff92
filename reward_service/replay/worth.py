"""What a replay says of one call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Worth:
    """The contribution of one call."""

    value: float
    """In [-1, 1]."""
    why: str


Contributions = dict[int, Worth]
"""By the index of the step."""
