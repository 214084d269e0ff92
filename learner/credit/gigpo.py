"""Group-in-group policy optimisation: trajectories are compared within a group, and steps at anchor states.

    Â_{i,t} = (R_i − mean) / std over the group  +  ω·(G_{i,t} − mean) / std over the steps that saw what t saw

R is the undiscounted sum of a trajectory's rewards, G_t the discounted return from step t (Feng et al. 2025, arXiv
2505.10978). What a step saw is the tokens that it was fed: its observation, or the prompt at the first step.
A step whose observation nobody else saw joins the first anchor that shares enough of its tokens; without one it is
compared with nobody, and only the trajectory's term is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import count

from learner.credit.config import GigpoConfig
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps
from learner.credit.normalising import normalise_by
from learner.credit.step_returns import step_returns

Observation = tuple[int, ...]


def anchors(observations: Sequence[Observation], similarity: float) -> list[int]:
    """For each observation of one group the number of its anchor; equal tokens always share one."""
    counts = Counter(observations)
    known: dict[Observation, int] = {}
    fresh = count()
    # Those that several saw come first, so that a lone one joins them and not the other way round.
    for one in sorted(counts, key=lambda observation: counts[observation] == 1):
        near = _nearest(one, known, similarity) if counts[one] == 1 and similarity < 1.0 else None
        known[one] = next(fresh) if near is None else known[near]
    return [known[one] for one in observations]


def _nearest(one: Observation, known: Iterable[Observation], least: float) -> Observation | None:
    for other in known:
        matcher = SequenceMatcher(None, one, other, autojunk=False)
        if matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least and matcher.ratio() >= least:
            return other
    return None


def estimate(batch: Sequence[KeptSteps], config: GigpoConfig) -> list[Estimate]:
    """One advantage a step."""
    totals = [sum(one.rewards) for one in batch]
    returns = [step_returns(one.rewards, config.gamma) for one in batch]
    episodes = normalise_by([one.group for one in batch], totals, config.min_std)
    flat = [number for one in returns for number in one]
    at_anchors = iter(normalise_by(_anchored(batch, config.similarity), flat, config.min_std))
    return [
        by_step([episode + config.step_weight * next(at_anchors) for _ in own], own, [total])
        for episode, own, total in zip(episodes, returns, totals, strict=True)
    ]


def _anchored(batch: Sequence[KeptSteps], similarity: float) -> list[tuple[str, int]]:
    """(group, anchor) of every step of the batch, in order."""
    seen = [(one.group, step.prompt_ids) for one in batch for step in one.steps]
    numbers = {
        group: iter(anchors([observation for other, observation in seen if other == group], similarity))
        for group in {group for group, _ in seen}
    }
    return [(group, next(numbers[group])) for group, _ in seen]
