"""The flat order of a row's tokens: a forest in which sequences that begin alike share what they have in common.

Owns `Segment`, `Layout` and `Forest`. Consumes sorted token sequences, produces segments and the flat position of every
token. Pure; knows nothing of credit or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_MIN_SHARED_TOKENS = 8
"""A shorter common part is computed twice: a segment costs more in kernel calls than so few tokens do in arithmetic."""


class Layout(Enum):
    """What sequences of one row have in common in it."""

    SHARED = "shared"
    """Every part with which several begin alike is one segment, computed once."""
    APART = "apart"
    """Nothing: each sequence is a segment of its own, whole, as in packing without a prefix tree."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a row's tokens that share one past."""

    start: int
    end: int
    ancestors: tuple[int, ...]
    """Indices into the row's segments, root first."""


def common_prefix(left: Ints, right: Ints) -> int:
    """How many tokens two sequences begin with that are the same."""
    n = min(len(left), len(right))
    differs = np.flatnonzero(left[:n] != right[:n])
    return int(differs[0]) if len(differs) else n


class Forest:
    """Grows a row from sorted sequences. Fills, for each sequence, the flat position of every token."""

    def __init__(self, sequences: Sequence[Ints], layout: Layout) -> None:
        self._sequences = sequences
        self.flat = [np.zeros(len(sequence), dtype=np.int64) for sequence in sequences]
        self.segments: list[Segment] = []
        self.tokens: list[Ints] = []
        self.positions: list[Ints] = []
        if layout is Layout.SHARED:
            self._grow(0, len(sequences), 0, ())
        else:
            for i, sequence in enumerate(sequences):
                self._emit(i, i + 1, 0, len(sequence), ())

    def _grow(self, low: int, high: int, depth: int, ancestors: tuple[int, ...]) -> None:
        """Lay out sequences low..high, which agree on their first `depth` tokens, all laid out already."""
        end = common_prefix(self._sequences[low], self._sequences[high - 1])
        one_ends_here = end == len(self._sequences[low])
        if end > depth and (one_ends_here or end - depth >= _MIN_SHARED_TOKENS):
            ancestors = (*ancestors, self._emit(low, high, depth, end, ancestors))
            depth = end
        for first, last in self._branches(low, high, end):
            self._grow(first, last, depth, ancestors)

    def _emit(self, low: int, high: int, depth: int, end: int, ancestors: tuple[int, ...]) -> int:
        start = self.segments[-1].end if self.segments else 0
        self.segments.append(Segment(start, start + end - depth, ancestors))
        self.tokens.append(self._sequences[low][depth:end])
        self.positions.append(np.arange(depth, end, dtype=np.int64))
        for i in range(low, high):
            self.flat[i][depth:end] = np.arange(start, start + end - depth, dtype=np.int64)
        return len(self.segments) - 1

    def _branches(self, low: int, high: int, at: int) -> list[tuple[int, int]]:
        """Runs of sequences with the same token at `at`; those that end there sort first and are done."""
        while low < high and len(self._sequences[low]) == at:
            low += 1
        cuts = [i for i in range(low, high) if i == low or self._sequences[i][at] != self._sequences[i - 1][at]]
        return list(pairwise([*cuts, high]))
