"""Which settings say where a run's numbers are computed and how fast, and not which numbers.

Owns `LAYOUT`, what is left of a configuration without it, and the part of it that metrics.jsonl records. Pure.

Sums are taken in another order in another layout, so a run goes on to float32 precision and not to the last bit.
`learner.pack_tokens` belongs here although it says how a batch is cut into rows: every row's loss is a share of the
whole batch's, so the gradient is the same sum however it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.config import RunConfig

_ROUNDING = ("ranks", "zero_stage", "attention", "offload", "pack_tokens", "threads")
"""Settings of the learner that may move the last bit of an update. Recomputed activations move none."""
_LEARNER = (*_ROUNDING, "activations", "deadline_seconds")
_ENGINE = (
    "max_num_seqs",
    "kv_cache_gib",
    "block_size",
    "threads",
    "enforce_eager",
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "start_seconds",
    "turn_seconds",
)
_ROLLOUT = ("actors", "concurrent_episodes", *(f"engine.{name}" for name in _ENGINE))
_SANDBOX = ("max_sessions", "queue_seconds", "open_seconds", "isolation.workers")
_REWARDS = ("replicas", "autoscaling", "cpus_per_replica", "start_seconds")

LAYOUT = (
    "placement",
    *(f"learner.{name}" for name in _LEARNER),
    *(f"rollout.{name}" for name in _ROLLOUT),
    *(f"sandbox.{name}" for name in _SANDBOX),
    *(f"rewards.{name}" for name in _REWARDS),
)
"""Settings that may change when a run goes on: whoever wrote a checkpoint, any layout reads it."""


def without_layout(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A written configuration without `LAYOUT`: what makes a run this one and no other."""
    return _without(settings, LAYOUT)


def layout_of(config: RunConfig) -> dict[str, Any]:
    """How the learner is laid out, as far as rounding depends on it: plain values, for metrics.jsonl."""
    learner = config.learner.model_dump(mode="json")
    return {name: learner[name] for name in _ROUNDING}


def laid_out(config: RunConfig, layout: Mapping[str, Any]) -> RunConfig:
    """The same run with its learner in a layout that `layout_of` gave."""
    settings = config.model_dump(mode="json")
    return RunConfig.model_validate({**settings, "learner": {**settings["learner"], **layout}})


def _without(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for key, value in settings.items():
        if key in names:
            continue
        inside = tuple(name.removeprefix(f"{key}.") for name in names if name.startswith(f"{key}."))
        left[key] = _without(value, inside) if inside and isinstance(value, Mapping) else value
    return left
