"""Contribution without ground truth: how much of a tool's result came to stand in the final answer.

Owns the rule of StepTool (arXiv 2410.07745, section 4.1; `annotation_by_rules`): a step contributed where the longest
common subsequence of its result and the final answer covers at least a given share of the result. Pure.
"""

from __future__ import annotations

from collections import defaultdict

COMPARED_CHARACTERS = 4096
"""Of either text. The cost grows with the product of the lengths."""


def contributed(result: str, answer: str | None, threshold: float) -> float:
    """1 where at least `threshold` of the result came to stand in the answer, else 0; 0 where there is no answer."""
    return float(answer is not None and covered(result, answer) >= threshold)


def covered(result: str, answer: str) -> float:
    """|LCS(result, answer)| / |result|, of characters; 0 for an empty result."""
    left, right = result[:COMPARED_CHARACTERS], answer[:COMPARED_CHARACTERS]
    return longest_common_subsequence(left, right) / len(left) if left else 0.0


def longest_common_subsequence(left: str, right: str) -> int:
    """Length of the longest common subsequence of characters.

    Bit-parallel (Hyyrö, 2004): one row of the dynamic programme is one integer, a zero bit is a place where the length
    grows, so a row costs len(left) / 64 machine words.
    """
    if not left or not right:
        return 0
    places: dict[str, int] = defaultdict(int)
    for place, character in enumerate(left):
        places[character] |= 1 << place
    everywhere = (1 << len(left)) - 1
    row = everywhere
    for character in right:
        matches = row & places.get(character, 0)
        row = ((row + matches) | (row - matches)) & everywhere
    return len(left) - row.bit_count()
