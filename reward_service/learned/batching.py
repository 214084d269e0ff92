"""Batches by tokens: what a batch costs is its number of texts times the longest of them, since the rest is padded.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized


def padded_tokens(texts: Sequence[Sized]) -> int:
    """Tokens of a batch of encoded texts, padding included."""
    return len(texts) * max(map(len, texts), default=0)


def batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Positions of texts with these `lengths` in tokens, in batches of at most `most` padded tokens, short ones first.

    A text that is longer than `most` gets a batch of its own.
    """
    found: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        # Lengths grow, so this one is what the batch would be padded to.
        if found and (len(found[-1]) + 1) * lengths[position] <= most:
            found[-1].append(position)
        else:
            found.append([position])
    return found
