"""Trajectories as the leaves of trees: compared within their tree, and over the group.

    Â_leaf = (R − mean) / std over its tree  +  (R − mean) / std over the group
    Â of a step = mean of Â_leaf over the trajectories that share the step

(Tree-GRPO, arXiv 2509.21240; the mean over the branches of a shared prefix: ARPO, arXiv 2507.19849.) R is the
discounted sum of a trajectory's rewards. Trajectories share a step where all of their tokens up to its end are the
same, whether a session was forked there or the policy happened to say the same again; a tree is the trajectories that
share their first step. Within a tree the shared steps cancel, and what is left compares the branches.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from learner.credit.config import TreeConfig
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps
from learner.credit.normalising import normalise_by
from learner.credit.step_returns import step_returns

Node = tuple[str, tuple[int, ...]]
"""A group and all tokens up to the end of a step."""


def prefixes(one: KeptSteps) -> list[Node]:
    """[n] the node at which each kept step ends."""
    nodes: list[Node] = []
    so_far: tuple[int, ...] = ()
    for step in one.scored.trajectory.steps:
        so_far = (*so_far, *step.prompt_ids, *step.action_ids)
        nodes.append((one.group, so_far))
    return [nodes[t] for t in one.indices]


def roots(batch: Sequence[KeptSteps]) -> list[Node]:
    """The tree of each trajectory: the node at which its very first step ends."""
    first = [one.scored.trajectory.steps[0] for one in batch]
    return [(one.group, (*s.prompt_ids, *s.action_ids)) for one, s in zip(batch, first, strict=True)]


def estimate(batch: Sequence[KeptSteps], config: TreeConfig) -> list[Estimate]:
    """One advantage a step."""
    returns = [step_returns(one.rewards, config.gamma) for one in batch]
    totals = [own[0] for own in returns]
    within = normalise_by(roots(batch), totals, config.min_std)
    between = normalise_by([one.group for one in batch], totals, config.min_std)
    nodes = [prefixes(one) for one in batch]
    shared: dict[Node, list[float]] = defaultdict(list)
    for own, inner, outer in zip(nodes, within, between, strict=True):
        for node in own:
            shared[node].append(inner + outer)
    means = {node: math.fsum(numbers) / len(numbers) for node, numbers in shared.items()}
    worth = _mean_at_end([own[-1] for own in nodes], totals)
    rows = zip(nodes, returns, worth, strict=True)
    return [by_step([means[node] for node in own], numbers, {0: total}) for own, numbers, total in rows]


def _mean_at_end(ends: Sequence[Node], totals: Sequence[float]) -> list[float]:
    """Of trajectories that are the same to the last token, the mean return: there is nothing to tell them apart."""
    found: dict[Node, list[float]] = defaultdict(list)
    for end, total in zip(ends, totals, strict=True):
        found[end].append(total)
    return [math.fsum(found[end]) / len(found[end]) for end in ends]
