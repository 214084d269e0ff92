"""Which trajectories of a group are preferred to which: what exploration-based trajectory optimisation learns from.

Owns `Pair` and `preference_pairs` (ETO, Song et al. 2024, arXiv 2403.02502). Pure; `learner.preference` has the loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actors.scoring import ScoredTrajectory


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trajectories of one task, by their positions in the batch."""

    chosen: int
    rejected: int


def preference_pairs(scored: Sequence[ScoredTrajectory]) -> list[Pair]:
    """Each trajectory that is worse than the best of its group, with one of the best; the best take turns.

    Worse is by the outcome alone. A trajectory without a known outcome, or all of whose steps abstained, is in no pair;
    a group in which all outcomes are equal has none.
    """
    groups: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for i, one in enumerate(scored):
        if one.reward.solved is not None and any(step.value is not None for step in one.reward.steps):
            groups[one.trajectory.group].append((i, one.reward.solved))
    return [pair for members in groups.values() for pair in _within(members)]


def _within(members: Sequence[tuple[int, float]]) -> Iterator[Pair]:
    top = max(outcome for _, outcome in members)
    best = [i for i, outcome in members if outcome == top]
    worse = [i for i, outcome in members if outcome < top]
    for turn, rejected in enumerate(worse):
        yield Pair(best[turn % len(best)], rejected)
