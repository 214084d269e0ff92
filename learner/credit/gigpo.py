"""Group-in-group policy optimisation: trajectories are compared within a group, and steps at anchor states.

    Â_{i,t} = (R_i − mean) / std over the group  +  ω·(G_{i,t} − mean) / std over the steps that saw what t saw

R is the undiscounted sum of a trajectory's rewards, G_t the discounted return from step t (Feng et al. 2025, arXiv
2505.10978). What a step saw is the tokens that it was fed: its observation, or the prompt at the first step.

A step whose observation nobody else saw is compared with all steps whose observation shares enough tokens with its own,
its neighbours; without any, only the trajectory's term is left. Neighbours are not cut into classes. A class into which
observations are taken one after another, as in the published code, depends on which came first; connected components
do not, but a chain of small changes, such as a counter, makes one class of all, in which most steps are compared with
states unlike their own. Here every peer is near, and the order of the batch decides nothing. Steps that several saw
alike are compared with exactly those: neighbours would bring other states into a baseline that has its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations

from learner.credit.config import GigpoConfig
from learner.credit.estimate import Estimate, by_step
from learner.credit.kept import KeptSteps
from learner.credit.normalising import normalise, normalise_by
from learner.credit.step_returns import step_returns

Observation = tuple[int, ...]
Places = Mapping[Observation, Sequence[int]]
"""Where each observation of a group stands among its steps."""


def peers(observations: Sequence[Observation], similarity: float) -> list[list[int]]:
    """For each observation of one group the places of those that its step is compared with, its own among them."""
    places: dict[Observation, list[int]] = defaultdict(list)
    for place, one in enumerate(observations):
        places[one].append(place)
    near = _neighbours(places, similarity)
    return [places[one] + [place for other in near[one] for place in places[other]] for one in observations]


def _neighbours(places: Places, least: float) -> Mapping[Observation, list[Observation]]:
    """Of each observation that a single step saw."""
    near: dict[Observation, list[Observation]] = {one: [] for one in places}
    for one, other in combinations(places, 2):
        lone = [seen for seen in (one, other) if len(places[seen]) == 1]
        if lone and least < 1.0 and _share_enough(one, other, least):
            for seen in lone:
                near[seen].append(other if seen == one else one)
    return near


def _share_enough(one: Observation, other: Observation, least: float) -> bool:
    """Matching blocks depend a little on which is searched for in which; the order that finds more of them counts."""
    return _ratio_is(one, other, least) or _ratio_is(other, one, least)


def _ratio_is(one: Observation, other: Observation, least: float) -> bool:
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least and matcher.ratio() >= least


def estimate(batch: Sequence[KeptSteps], config: GigpoConfig) -> list[Estimate]:
    """One advantage a step."""
    totals = [sum(one.rewards) for one in batch]
    returns = [step_returns(one.rewards, config.gamma) for one in batch]
    episodes = normalise_by([one.group for one in batch], totals, config.min_std)
    flat = [number for one in returns for number in one]
    at_states = iter(_at_states(batch, flat, config))
    return [
        by_step([episode + config.step_weight * next(at_states) for _ in own], own, {0: total})
        for episode, own, total in zip(episodes, returns, totals, strict=True)
    ]


def _at_states(batch: Sequence[KeptSteps], returns: Sequence[float], config: GigpoConfig) -> list[float]:
    """The second term of every step of the batch, in order, before its weight."""
    seen = [(one.group, step.prompt_ids) for one in batch for step in one.steps]
    members: dict[str, list[int]] = defaultdict(list)
    for i, (group, _) in enumerate(seen):
        members[group].append(i)
    found: dict[int, float] = {}
    for steps in members.values():
        for i, among in zip(steps, peers([seen[j][1] for j in steps], config.similarity), strict=True):
            (found[i],) = normalise([returns[i]], config.min_std, [returns[steps[place]] for place in among])
    return [found[i] for i in range(len(seen))]
