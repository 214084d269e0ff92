"""What a run would be, before anything of it exists: settings, placement, memory. Owns the memory estimate.

Consumes a resolved configuration and the model's `config.json`; produces three printed parts. Starts nothing: no Ray,
no engine, no weights. Activations, the caching allocator and the interpreter itself are not estimated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.config import GIB, RolloutConfig
from cluster.config import RunConfig
from cluster.models import find_model
from cluster.placement import Placed, plan
from cluster.presets import dump_config
from learner.config import LearnerConfig
from learner.objective.config import ReferenceKl

BYTES = {"bfloat16": 2, "float32": 4}
_MASTER_BYTES = 4
_ADAM_BYTES = 8
"""Two float32 moments."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What memory depends on."""

    parameters: int
    """Tied weights counted once."""
    kv_values_per_token: int
    """Keys and values of all layers that one token leaves in the cache."""


def describe(config: RunConfig, console: Console) -> None:
    """Print the resolved configuration as YAML, who runs where, and how much memory each of them needs."""
    console.print(dump_config(config), markup=False, highlight=False, soft_wrap=True)
    console.print(_placement_table(plan(config)))
    for setting, model in (("rollout.model", config.rollout.model), ("learner.model_path", config.learner.model_path)):
        if find_model(model) is None:
            console.print(f"{setting} {model}: model not here: memory not estimated", markup=False, highlight=False)
            return
    console.print(_memory_table(config))


def model_size(directory: Path) -> ModelSize:
    """Size of the model in a directory, from its `config.json` alone: nothing is allocated."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # The attributes of a model's configuration differ by family; Transformers types none of them.
    config: Any = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSize(sum(p.numel() for p in model.parameters()), 2 * config.num_hidden_layers * heads * width)


def learner_bytes(parameters: int, config: LearnerConfig) -> dict[str, int]:
    """Bytes that one rank holds, by purpose. ZeRO divides the optimiser's state among the ranks from stage 1 on, the
    gradients from stage 2 on and the weights at stage 3 (Rajbhandari et al. 2020, §5). Gradients are summed in float32.

    A float32 model is its own master copy unless ZeRO keeps a partition of it.
    """
    share = {stage: config.ranks if config.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    precise = config.dtype == "float32" and config.zero_stage == 0
    held = {
        "weights": BYTES[config.dtype] * parameters // share[3],
        "gradients": _MASTER_BYTES * parameters // share[2],
        "master weights": 0 if precise else _MASTER_BYTES * parameters // share[1],
        "Adam moments": _ADAM_BYTES * parameters // share[1],
    }
    if isinstance(config.loss.kl, ReferenceKl):
        held["reference policy"] = BYTES[config.dtype] * parameters
    return held


def rollout_bytes(parameters: int, config: RolloutConfig) -> dict[str, int]:
    """Bytes that one engine holds on each of its `tensor_parallel_size` devices, by purpose."""
    weights = BYTES[config.engine.dtype] * parameters // config.engine.tensor_parallel_size
    return {"weights": weights, "KV cache": config.engine.kv_cache_gib * GIB}


def _placement_table(placed: tuple[Placed, ...]) -> Table:
    table = Table("actor", "how many", "CPU each", "GPU each", title="Placement")
    for (role, cpus, gpus), group in groupby(placed, lambda one: (one.name.rpartition("-")[0], one.cpus, one.gpus)):
        table.add_row(role, str(len(list(group))), f"{cpus:g}", f"{gpus:g}")
    total = f"{sum(one.cpus for one in placed):g}", f"{sum(one.gpus for one in placed):g}"
    table.add_row("all", str(len(placed)), *total, style="bold")
    return table


def _memory_table(config: RunConfig) -> Table:
    table = Table("part", "how many", "what each holds", "GiB", title="Estimated memory, without activations")
    for part, count, held in _parts(config):
        for what, size in held.items():
            table.add_row(part, str(count), what, f"{size / GIB:.2f}")
        table.add_row(part, str(count), "all", f"{sum(held.values()) / GIB:.2f}", style="bold", end_section=True)
    return table


def _parts(config: RunConfig) -> Iterator[tuple[str, int, Mapping[str, int]]]:
    trained, served = _size(config.learner.model_path), _size(config.rollout.model)
    yield "learner", config.learner.ranks, learner_bytes(trained.parameters, config.learner)
    engine = config.rollout.engine
    held = rollout_bytes(served.parameters, config.rollout)
    tokens = held["KV cache"] // (served.kv_values_per_token * BYTES[engine.dtype])
    fits = f"KV cache ({tokens} tokens, {tokens // engine.max_model_len} full contexts)"
    yield "rollout", config.rollout.actors, {"weights": held["weights"], fits: held["KV cache"]}
    # A publish puts one whole copy of the weights into the object store; the copy before it goes when it is replaced.
    yield "object store", 1, {"published weights": BYTES[config.learner.dtype] * trained.parameters}


def _size(model: str) -> ModelSize:
    directory = find_model(model)
    assert directory is not None, "the caller looked first"
    return model_size(directory)
