"""Means, deviations and what is left when they are taken out.

Pure functions of numbers. Deviations are those of the population.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key")
SAME = 1e-9
"""Values closer than this are the same number."""


def mean_std(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))


def normalise(numbers: Sequence[float], min_std: float = 0.0, among: Sequence[float] | None = None) -> list[float]:
    """(x − mean) / max(std, min_std), mean and std over `among`, or else over `numbers`; zero where nothing differs."""
    peers = numbers if among is None else among
    if not peers:
        return []
    mean, std = mean_std(peers)
    return [(number - mean) / max(std, min_std) if std > SAME else 0.0 for number in numbers]


def normalise_in_cells(
    numbers: Mapping[tuple[Key, int], Sequence[float]], min_std: float
) -> dict[tuple[Key, int], list[float]]:
    """`normalise` within each cell (group, step index), as GTPO does (arXiv 2511.14846).

    A cell of one has no peers: its own mean would erase it. It is compared with all steps of its group instead.
    """
    pooled: dict[Key, list[float]] = defaultdict(list)
    for (group, _), members in numbers.items():
        pooled[group].extend(members)
    return {
        cell: normalise(members, min_std, members if len(members) > 1 else pooled[cell[0]])
        for cell, members in numbers.items()
    }


def normalise_by(keys: Sequence[Key], numbers: Sequence[float], min_std: float) -> list[float]:
    """`normalise` among the numbers of one key; gives one number each, in order."""
    cells: dict[Key, list[float]] = defaultdict(list)
    for key, number in zip(keys, numbers, strict=True):
        cells[key].append(number)
    queues = {key: iter(normalise(members, min_std)) for key, members in cells.items()}
    return [next(queues[key]) for key in keys]


def less_the_others(number: float, count: int, total: float) -> float:
    """x − mean of the others, where `count` numbers with x among them add up to `total`; 0 where there are none.

    (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740.)
    """
    return number - (total - number) / (count - 1) if count > 1 else 0.0
