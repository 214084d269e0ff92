"""Which actor runs where, with what. Owns the plan of a run and the placement group that carries it out.

One placement group holds everything that belongs to the run, so that a run starts whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.config import RunConfig
from cluster.errors import NotEnoughResources


@dataclass(frozen=True, slots=True)
class Placed:
    """One actor of the plan."""

    name: str
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that its node must have."""

    def bundle(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def plan(config: RunConfig) -> tuple[Placed, ...]:
    """Learner ranks, then engines, then sandboxes; the order is that of the bundles."""
    placement = config.placement
    learners = (
        Placed(f"learner-{i}", placement.learner_cpus, placement.learner_gpus) for i in range(config.learner.ranks)
    )
    rollouts = (
        Placed(f"rollout-{i}", placement.rollout_cpus, placement.rollout_gpus) for i in range(config.rollout.actors)
    )
    sandboxes = (
        Placed(f"sandbox-{i}", placement.sandbox_cpus, 0.0, placement.sandbox_labels)
        for i in range(placement.sandbox_actors)
    )
    return (*learners, *rollouts, *sandboxes)


@dataclass(frozen=True, slots=True)
class Placement:
    """A granted placement group and the Ray options of each actor in it."""

    group: PlacementGroup
    placed: tuple[Placed, ...]
    first: int = 0
    """Bundle of the first actor; the others follow."""
    lent: bool = False
    """Whether the group belongs to whoever started this process, who also removes it."""

    def options(self, role: str) -> list[dict[str, Any]]:
        """Ray actor options of all actors named `role-0`, `role-1` …"""
        return [self._options(i, actor) for i, actor in enumerate(self.placed) if actor.name.startswith(f"{role}-")]

    def release(self) -> None:
        """Give the resources back, unless the group is only lent."""
        if not self.lent:
            remove_placement_group(self.group)

    def _options(self, index: int, actor: Placed) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.first + index)
        # Trials of one Tune job share its namespace; each group gets its own, or their names would collide.
        apart = {"namespace": self.group.id.hex()} if self.lent else {}
        return {
            **apart,
            "name": actor.name,
            "num_cpus": actor.cpus,
            "num_gpus": actor.gpus,
            "scheduling_strategy": strategy,
        }


def place(
    placed: tuple[Placed, ...], name: str, deadline_seconds: float, strategy: Literal["PACK", "SPREAD"] = "PACK"
) -> Placement:
    """Reserve everything at once; inside a Tune trial, take what Tune has reserved after the trial's own bundle.

    Raises:
        NotEnoughResources: the cluster did not grant it before the deadline; says what is missing.
    """
    lent = get_current_placement_group()
    if lent is not None:
        return Placement(lent, placed, first=1, lent=True)
    group = placement_group(
        [actor.bundle() for actor in placed],
        strategy=strategy,
        name=name,
        bundle_label_selector=[dict(actor.labels) for actor in placed],
    )
    if not group.wait(deadline_seconds):
        remove_placement_group(group)
        raise NotEnoughResources(_unmet(placed, deadline_seconds))
    return Placement(group, placed)


def _unmet(placed: Sequence[Placed], seconds: float) -> str:
    free, whole = ray.available_resources(), ray.cluster_resources()
    lines = [f"placement: the cluster did not grant {len(placed)} bundles within {seconds:g} s"]
    for kind in ("CPU", "GPU"):
        wanted = sum(actor.bundle().get(kind, 0.0) for actor in placed)
        lines.append(f"  {kind}: wanted {wanted:g}, free {free.get(kind, 0.0):g} of {whole.get(kind, 0.0):g}")
    lines += [f"  bundle {i} {actor.name}: {actor.bundle()}{_pinned(actor)}" for i, actor in enumerate(placed)]
    lines.append("  add nodes, stop other jobs, or lower placement.* and *.ranks / *.actors")
    return "\n".join(lines)


def _pinned(actor: Placed) -> str:
    return f" on a node with {dict(actor.labels)}" if actor.labels else ""
