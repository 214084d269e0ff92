"""REINFORCE leave-one-out over the returns of steps.

    Â_{i,t} = G_{i,t} − mean of G_{j,t} over the other trajectories j of the group that have a step of index t

(Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740; with steps in place of sequences.) A step that no
other trajectory reached is compared with all steps of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from learner.credit.config import StepRlooConfig
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps
from learner.credit.normalising import less_the_others
from learner.credit.step_returns import step_returns


def step_rloo(returns: Sequence[Mapping[int, float]]) -> list[list[float]]:
    """Â of each step from the step returns of one group, by step index, one mapping a trajectory; as ragged as they."""
    columns: dict[int, list[float]] = defaultdict(list)
    for one in returns:
        for t, number in one.items():
            columns[t].append(number)
    sums = [sum(one.values()) for one in returns]
    total, count = sum(sums), sum(map(len, returns))
    return [
        [_against(number, columns[t], total - own, count - len(one)) for t, number in one.items()]
        for one, own in zip(returns, sums, strict=True)
    ]


def _against(number: float, column: Sequence[float], others: float, count: int) -> float:
    if len(column) > 1:
        return less_the_others(number, len(column), sum(column))
    return number - others / count if count else 0.0


def estimate(batch: Sequence[KeptSteps], config: StepRlooConfig) -> list[Estimate]:
    """One advantage a step."""
    returns = [step_returns(one.rewards, config.gamma) for one in batch]
    members: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(batch):
        members[one.group].append(i)
    found: dict[int, list[float]] = {}
    for group in members.values():
        found.update(zip(group, step_rloo([batch[i].by_index(returns[i]) for i in group]), strict=True))
    return [by_step(found[i], returns[i], one.by_index(returns[i])) for i, one in enumerate(batch)]
