"""Contribution without ground truth: how much of a tool's result came to stand in the final answer.

Owns the rule of StepTool (arXiv 2410.07745, section 4.1; `annotation_by_rules`): a step contributed where the longest
common subsequence of its result and the final answer covers at least a given share of the result. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

COMPARED_CHARACTERS = 4096
"""Of either text. The cost grows with the product of the lengths."""
_PAIRS_PER_CHARACTER = 1024
"""What a character of the result costs by itself, however short the answer is."""


class ComparedAnswer:
    """A final answer, prepared once for all the results that are compared with it."""

    def __init__(self, text: str) -> None:
        self._length = min(len(text), COMPARED_CHARACTERS)
        self._places = _places(text[:COMPARED_CHARACTERS])

    def contributed(self, result: str, threshold: float) -> float:
        """1 where at least `threshold` of the result came to stand in the answer, else 0."""
        return float(self.covered(result) >= threshold)

    def covered(self, result: str) -> float:
        """|LCS(result, answer)| / |result|, of characters; 0 for an empty result."""
        compared = result[:COMPARED_CHARACTERS]
        return self.common(compared) / len(compared) if compared else 0.0

    def common(self, text: str) -> int:
        """Length of the longest common subsequence of `text` and the answer.

        Bit-parallel (Hyyrö, 2004): one row of the dynamic programme is one integer, a zero bit is a place where the
        length grows, so a character costs len(answer) / 64 machine words.
        """
        everywhere = row = (1 << self._length) - 1
        for character in text:
            matches = row & self._places.get(character, 0)
            if matches:
                # What is carried beyond the last place never comes back down; it is cut off at the end.
                row = (row + matches) | (row - matches)
        return self._length - (row & everywhere).bit_count()


def cost(result: str, answer: str) -> int:
    """What a comparison costs, in pairs of characters; many together take about a millisecond for each 2²² of them."""
    return min(len(result), COMPARED_CHARACTERS) * (min(len(answer), COMPARED_CHARACTERS) + _PAIRS_PER_CHARACTER)


def _places(text: str) -> Mapping[str, int]:
    """Where each character stands, as bits: in bytes first, since an integer is written anew with every bit."""
    size = len(text) // 8 + 1
    found: dict[str, bytearray] = defaultdict(lambda: bytearray(size))
    for place, character in enumerate(text):
        found[character][place >> 3] |= 1 << (place & 7)
    return {character: int.from_bytes(bits, "little") for character, bits in found.items()}
