"""From raw numbers to advantages: whitening, the outcome's part, clipping, and groups that teach nothing.

Pure, and the same for every estimator. A group that teaches nothing is one without a non-zero number; it loses its
credit, so that it has no part in the mean that the loss takes over tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from learner.credit.config import Credit, NoWhitening, WhitenBatch, WhitenGroup, Whitening, WhitenSteps
from learner.credit.credited import Numbers
from learner.credit.kept import KeptSteps
from learner.credit.normalising import SAME, normalise, normalise_by, normalise_in_cells

Units = tuple[Numbers | None, ...]
"""Of one trajectory; None where a unit has no credit."""
_EVERYTHING = ""


def finished(batch: Sequence[KeptSteps], raw: Sequence[Units], config: Credit) -> list[Units]:
    """The advantages of each trajectory's units; as ragged as `raw`."""
    groups = [one.group for one in batch]
    if config.relative:
        raw = _without_rounding(raw)
    idle = uniform(groups, raw) if config.relative else set[str]()
    counted = [(None,) * len(units) if group in idle else units for group, units in zip(groups, raw, strict=True)]
    places = [(0,) if config.level == "trajectory" else one.indices for one in batch]
    white = whitened(groups, places, counted, config.whiten)
    white = [units if group in idle else new for group, units, new in zip(groups, raw, white, strict=True)]
    return [_clipped(units, config.clip) for units in _with_outcome(batch, white, config)]


def uniform(groups: Sequence[str], batch: Sequence[Units]) -> set[str]:
    """Groups in which no number differs from zero."""
    teaching = {group for group, units in zip(groups, batch, strict=True) if any(chain(*filter(None, units)))}
    return set(groups) - teaching


def whitened(
    groups: Sequence[str], places: Sequence[Sequence[int]], batch: Sequence[Units], whitening: Whitening
) -> list[Units]:
    """Numbers less their mean and over their deviation, among those that `whitening` says; None stays None.

    `places` holds the index of the step that each unit is, in its trajectory.
    """
    match whitening:
        case NoWhitening():
            return list(batch)
        case WhitenSteps(min_std=floor):
            return _within_cells(groups, places, batch, floor)
        case WhitenGroup(min_std=floor):
            return _within(groups, batch, floor)
        case WhitenBatch(min_std=floor):
            return _within([_EVERYTHING] * len(groups), batch, floor)


def _within(keys: Sequence[str], batch: Sequence[Units], min_std: float) -> list[Units]:
    members: dict[str, list[float]] = defaultdict(list)
    for key, units in zip(keys, batch, strict=True):
        members[key].extend(chain(*filter(None, units)))
    queues = {key: iter(normalise(numbers, min_std)) for key, numbers in members.items()}
    return [_refilled(units, [queues[key]] * len(units)) for key, units in zip(keys, batch, strict=True)]


def _within_cells(
    groups: Sequence[str], places: Sequence[Sequence[int]], batch: Sequence[Units], min_std: float
) -> list[Units]:
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    keys = [[(group, index) for index in own] for group, own in zip(groups, places, strict=True)]
    for own, units in zip(keys, batch, strict=True):
        for cell, numbers in zip(own, units, strict=True):
            cells[cell].extend(numbers or ())
    kept = {cell: numbers for cell, numbers in cells.items() if numbers}
    queues = {cell: iter(numbers) for cell, numbers in normalise_in_cells(kept, min_std).items()}
    nothing: Iterator[float] = iter(())
    return [
        _refilled(units, [queues.get(cell, nothing) for cell in own]) for own, units in zip(keys, batch, strict=True)
    ]


def _refilled(units: Units, queues: Sequence[Iterator[float]]) -> Units:
    """Each unit with the next numbers of its queue, which was filled in this same order."""
    return tuple(
        None if numbers is None else tuple(next(queue) for _ in numbers)
        for numbers, queue in zip(units, queues, strict=True)
    )


def _without_rounding(batch: Sequence[Units]) -> list[Units]:
    """A difference of equal numbers is zero, whatever floating point left of it."""
    return [_each(units, lambda number: 0.0 if abs(number) < SAME else number) for units in batch]


def _with_outcome(batch: Sequence[KeptSteps], units: Sequence[Units], config: Credit) -> list[Units]:
    """Â + ω·Â_outcome; a trajectory whose outcome nobody knows has Â alone."""
    if not config.outcome_weight:
        return list(units)
    known = [(one.group, one.outcome) for one in batch if one.outcome is not None]
    numbers = iter(normalise_by([g for g, _ in known], [o for _, o in known], config.outcome_min_std))
    parts = [config.outcome_weight * next(numbers) if one.outcome is not None else 0.0 for one in batch]
    return [_each(own, lambda number, part=part: number + part) for own, part in zip(units, parts, strict=True)]


def _clipped(units: Units, clip: float | None) -> Units:
    if clip is None:
        return units
    return _each(units, lambda number: max(-clip, min(clip, number)))


def _each(units: Units, change: Callable[[float], float]) -> Units:
    return tuple(None if numbers is None else tuple(map(change, numbers)) for numbers in units)
