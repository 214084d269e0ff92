"""Which trajectories an update learns from, and the parts on which the optimiser steps in turn.

Owns `with_steps` and `split_groups`. Pure. Groups stay whole: their trajectories share a prompt, which is computed once
where they are laid out together, and they are what credit was compared over.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from learner.credit import CreditedTrajectory


def with_steps(credited: Sequence[CreditedTrajectory]) -> list[CreditedTrajectory]:
    """Those that have a step. The others teach nothing and leave no record: counted, they would make an update one that
    no replay can repeat."""
    return [one for one in credited if one.scored.trajectory.steps]


def split_groups(credited: Sequence[CreditedTrajectory], count: int) -> list[list[CreditedTrajectory]]:
    """At most `count` parts of about as many groups each, groups in the order in which they first appear.

    Neighbouring groups stay together, so that a batch that goes through the levels in turn has several in each part.
    """
    groups: dict[str, list[CreditedTrajectory]] = {}
    for one in credited:
        groups.setdefault(one.scored.trajectory.group, []).append(one)
    members = list(groups.values())
    parts = max(1, min(count, len(members)))
    bounds = [len(members) * part // parts for part in range(parts + 1)]
    return [[one for group in members[start:end] for one in group] for start, end in pairwise(bounds)]
