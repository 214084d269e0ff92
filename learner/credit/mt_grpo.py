"""Multi-turn GRPO: each step's own reward beside the outcome, both normalised over the group.

    Â_{i,t} = Â_outcome,i + λ·(r_{i,t} − mean) / std over the group's steps of index t        for t < T
    Â_{i,T} = Â_outcome,i                                      Â_outcome,i = (o_i − mean) / std over the group

(Zeng et al. 2025, arXiv 2505.11821, whose trajectories have one call and one answer; here any number of steps.) The
outcome o is IsSolved; the reward of the last step T is where the outcome is paid, and is not counted twice. Where it
abstained, no other step takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from learner.credit.config import MtGrpoConfig
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps
from learner.credit.normalising import normalise_by
from learner.credit.outcome import outcomes_of


def estimate(batch: Sequence[KeptSteps], config: MtGrpoConfig) -> list[Estimate]:
    """One advantage a step."""
    outcomes = outcomes_of(batch)
    of_outcome = normalise_by([one.group for one in batch], outcomes, config.min_std)
    turns = [_turns(one) for one in batch]
    cells = [(one.group, t) for one, own in zip(batch, turns, strict=True) for t in own]
    of_turns = iter(normalise_by(cells, [reward for own in turns for reward in own.values()], config.min_std))
    return [
        by_step(_mixed(base, one, of_turns, config), [None] * len(one.rewards), {0: outcome})
        for one, base, outcome in zip(batch, of_outcome, outcomes, strict=True)
    ]


def _turns(one: KeptSteps) -> dict[int, float]:
    """Rewards of the steps before the trajectory's last one, by index."""
    return {t: reward for t, reward in one.by_index(one.rewards).items() if t < one.last}


def _mixed(base: float, one: KeptSteps, of_turns: Iterator[float], config: MtGrpoConfig) -> list[float]:
    return [base + config.turn_weight * next(of_turns) if t < one.last else base for t in one.indices]
