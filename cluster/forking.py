"""Groups that are trees: some trajectories begin at the prompt, the others branch off them.

Consumes the requests of an iteration and somebody who plays them; produces the groups, in which a branch has the steps
of its root token by token, up to where it left it. Where it leaves is drawn from the boundaries between two steps, all
alike. The first step is always shared, or the branch would be a root; a root of one step has no boundary, and what
should branch off it begins at the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.episode import EpisodeRequest
from actors.prefix import prefix_before
from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from cluster.batch import request_seed
from cluster.config import ForkedGroup, RunConfig

Play = Callable[[Sequence[EpisodeRequest]], Sequence[ScoredTrajectory]]
"""Plays episodes, and gives them back in the order of the requests."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Whole groups, in the order of their requests."""

    scored: list[ScoredTrajectory]
    shared_tokens: int = 0
    """Action tokens that branches took over from their roots, so that nobody sampled them again."""


def play_groups(config: RunConfig, requests: Sequence[EpisodeRequest], play: Play) -> Groups:
    """Play whole groups, each of `task.group_size` requests in a row."""
    if not isinstance(config.task.group, ForkedGroup):
        return Groups(list(play(requests)))
    size, roots = config.task.group_size, config.task.group.roots
    begun = {one.trajectory.id: one for one in play([one for i, one in enumerate(requests) if i % size < roots])}
    branches = [
        branch_off(one, begun[requests[i - i % size + i % size % roots].id].trajectory, config.seed)
        for i, one in enumerate(requests)
        if i % size >= roots
    ]
    played = begun | {one.trajectory.id: one for one in play(branches)}
    shared = sum(one.prefix.action_tokens for one in branches if one.prefix is not None)
    return Groups([played[one.id] for one in requests], shared)


def branch_off(request: EpisodeRequest, root: Trajectory, seed: int) -> EpisodeRequest:
    """The request, to begin between two steps of `root`."""
    boundaries = len(root.steps) - 1
    if boundaries < 1:
        return request
    return replace(request, prefix=prefix_before(root, 1 + request_seed(seed, "fork", request.id) % boundaries))
