from __future__ import annotations

import pytest
import ray

from cluster.errors import NotEnoughResources
from cluster.placement import Placed, place, plan
from cluster.presets import load_config


def test_the_plan_lists_ranks_then_engines_then_sandboxes_with_what_each_reserves() -> None:
    cpus = ["placement.learner_cpus=0.9", "placement.rollout_cpus=0.7", "placement.sandbox_cpus=0.1"]
    overrides = [*cpus, "learner.ranks=2", "placement.sandbox_actors=2", "placement.learner_gpus=1"]
    assert plan(load_config("quickstart", overrides)) == (
        Placed("learner-0", 0.9, 1.0),
        Placed("learner-1", 0.9, 1.0),
        Placed("rollout-0", 0.7, 0.0),
        Placed("sandbox-0", 0.1, 0.0),
        Placed("sandbox-1", 0.1, 0.0),
    )


def test_the_embedded_default_fits_two_cores_with_room_for_the_reward_service() -> None:
    config = load_config("quickstart")
    reserved = sum(actor.cpus for actor in plan(config)) + config.rewards.replicas * config.rewards.cpus_per_replica
    assert reserved <= 2.0


def test_the_eight_gpu_preset_uses_eight_gpus() -> None:
    assert sum(actor.gpus for actor in plan(load_config("qwen2.5-7b-8gpu"))) == 8.0


def test_the_one_gpu_preset_shares_one_gpu() -> None:
    assert sum(actor.gpus for actor in plan(load_config("qwen3-1.7b-1gpu"))) == 1.0


def test_what_a_cluster_does_not_grant_in_time_is_listed_and_no_longer_asked_for(ray_local: str) -> None:
    asked = ["placement.learner_cpus=1000", "placement.rollout_cpus=0.7", "placement.sandbox_cpus=0.1"]
    placed = plan(load_config("quickstart", asked))
    with pytest.raises(NotEnoughResources) as caught:
        place(placed, "too-much", deadline_seconds=1.0)
    message = str(caught.value)
    assert "did not grant 3 bundles within 1 s" in message
    assert "CPU: wanted 1000.8, free " in message
    assert "bundle 0 learner-0: {'CPU': 1000.0}" in message
    assert "placement.*" in message
    assert caught.value.exit_code == 3
    assert _pending("too-much") == []


def test_sandboxes_are_pinned_to_nodes_with_their_labels(ray_local: str) -> None:
    (node,) = ray.nodes()
    label = {"ray.io/node-id": node["NodeID"]}
    config = load_config("quickstart", [f"placement.sandbox_labels={label}", "placement.sandbox_cpus=0.1"])
    *_, sandbox = plan(config)
    assert sandbox == Placed("sandbox-0", 0.1, 0.0, label)
    place((sandbox,), "pinned", deadline_seconds=30.0).release()
    elsewhere = Placed("sandbox-0", 0.1, 0.0, {"pool": "elsewhere"})
    with pytest.raises(NotEnoughResources, match=r"sandbox-0: \{'CPU': 0.1\} on a node with \{'pool': 'elsewhere'\}"):
        place((elsewhere,), "nowhere", deadline_seconds=1.0, strategy="SPREAD")


def _pending(name: str) -> list[str]:
    return [
        group["placement_group_id"]
        for group in ray.util.placement_group_table().values()
        if group["name"] == name and group["state"] == "PENDING"
    ]


def test_a_granted_place_gives_each_actor_its_own_bundle(ray_local: str) -> None:
    placed = (Placed("learner-0", 0.1, 0.0), Placed("learner-1", 0.1, 0.0), Placed("rollout-0", 0.2, 0.0))
    placement = place(placed, "small", deadline_seconds=30.0)
    try:
        learners, [rollout] = placement.options("learner"), placement.options("rollout")
        assert [one["name"] for one in learners] == ["learner-0", "learner-1"]
        assert [one["scheduling_strategy"].placement_group_bundle_index for one in learners] == [0, 1]
        assert (rollout["num_cpus"], rollout["scheduling_strategy"].placement_group_bundle_index) == (0.2, 2)
    finally:
        placement.release()
