"""What the outcome loses without a step, as replays in the task's own world told.

    Â_t = outcome(all steps) − outcome(without t) for a call, and the outcome itself for the final answer,
    since without an answer there is none

The replays are the reward service's (`rewards.signals.contribution.kind: leave_one_out`), which counts the calls that
rest on t as gone with it; this reads the signal `contribution` as measured, whatever the shaping makes of it. A step
that the replay says nothing of has no credit.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.trajectory import Answer
from learner.credit.config import LeaveOneOutConfig
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps

SIGNAL = "contribution"


def estimate(batch: Sequence[KeptSteps], config: LeaveOneOutConfig) -> list[Estimate]:
    """One advantage a step, in [−1, 1]."""
    return [_of_one(one) for one in batch]


def _of_one(one: KeptSteps) -> Estimate:
    worth = one.signal(SIGNAL)
    if one.last in one.indices and isinstance(one.steps[-1].action, Answer) and not one.was_cut:
        worth[-1] = one.outcome
    known = {t: number for t, number in zip(one.indices, worth, strict=True) if number is not None}
    return by_step(worth, [None] * len(worth), known)
