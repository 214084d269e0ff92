"""What a run would be, before anything of it exists: settings, placement, memory.

Consumes a resolved configuration and the model's `config.json`; produces three printed parts. Starts nothing: no Ray,
no engine, no weights. `learner.memory` does the arithmetic; the interpreter and its libraries are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.config import GIB
from cluster.config import RunConfig
from cluster.models import find_model
from cluster.placement import Placed, plan
from cluster.presets import dump_config
from learner.credit.config import EtoConfig, value_head_of
from learner.memory import DTYPE_BYTES, ModelShape, checkpoint_bytes, engine_bytes, trained_parameters, update_bytes


def describe(config: RunConfig, console: Console) -> None:
    """Print the resolved configuration as YAML, who runs where, and how much memory each of them needs."""
    console.print(dump_config(config), markup=False, highlight=False, soft_wrap=True)
    console.print(_placement_table(plan(config)))
    for setting, model in (("rollout.model", config.rollout.model), ("learner.model_path", config.learner.model_path)):
        if find_model(model) is None:
            console.print(f"{setting} {model}: model not here: memory not estimated", markup=False, highlight=False)
            return
    console.print(_memory_table(config))
    row, packed = longest_row(config), config.learner.pack_tokens
    if row > packed:
        told = f"learner: planned for a trajectory of {row} tokens (rollout.engine.max_model_len) in a row to itself"
        console.print(f"{told}; other rows have {packed} (learner.pack_tokens)", highlight=False, soft_wrap=True)


def model_shape(directory: Path) -> ModelShape:
    """Dimensions of the model in a directory, from its `config.json` alone: nothing is allocated."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # The attributes of a model's configuration differ by family; Transformers types none of them.
    config: Any = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        query_width=heads * width,
        kv_width=(getattr(config, "num_key_value_heads", None) or heads) * width,
        vocabulary=config.vocab_size,
    )


def longest_row(config: RunConfig) -> int:
    """Tokens of the longest row that an update may have: a trajectory that packing cannot cut may fill the context."""
    return max(config.learner.pack_tokens, config.rollout.engine.max_model_len)


def expected_predictions(config: RunConfig) -> int:
    """Positions of the longest row that predict an action token, as if every turn were as long as it may be, and every
    observation too."""
    turn, observation = config.rollout.sampling.max_turn_tokens, config.rollout.episode.observation_tokens
    return longest_row(config) * turn // (turn + observation)


def _placement_table(placed: tuple[Placed, ...]) -> Table:
    table = Table("actor", "how many", "CPU each", "GPU each", title="Placement")
    for (role, cpus, gpus), group in groupby(placed, lambda one: (one.name.rpartition("-")[0], one.cpus, one.gpus)):
        table.add_row(role, str(len(list(group))), f"{cpus:g}", f"{gpus:g}")
    total = f"{sum(one.cpus for one in placed):g}", f"{sum(one.gpus for one in placed):g}"
    table.add_row("all", str(len(placed)), *total, style="bold")
    return table


def _memory_table(config: RunConfig) -> Table:
    table = Table("part", "how many", "what each holds", "GiB", title="Estimated memory at its peak")
    for part, count, held in _parts(config):
        for what, size in held.items():
            table.add_row(part, str(count), what, f"{size / GIB:.2f}")
        table.add_row(part, str(count), "all", f"{sum(held.values()) / GIB:.2f}", style="bold", end_section=True)
    return table


def _parts(config: RunConfig) -> Iterator[tuple[str, int, Mapping[str, int]]]:
    trained, served = _shape(config.learner.model_path), _shape(config.rollout.model)
    critic = value_head_of(config.credit)
    update = update_bytes(trained, config.learner, critic, longest_row(config), expected_predictions(config))
    if isinstance(config.credit, EtoConfig):
        copied = trained_parameters(trained, config.learner)
        update = {**update, "reference policy": DTYPE_BYTES[config.learner.dtype] * copied}
    yield "learner", config.learner.ranks, update
    yield "checkpoint", 1, {"copy that is being written": checkpoint_bytes(trained, config.learner)}
    engine = config.rollout.engine
    held = engine_bytes(served, config.rollout)
    cached = held["KV cache"] // (served.kv_values_per_token * DTYPE_BYTES[engine.dtype])
    fits = f"KV cache ({cached} tokens, {cached // engine.max_model_len} full contexts)"
    yield "rollout", config.rollout.actors, {"weights": held["weights"], fits: held["KV cache"]}
    # A publish puts one whole copy of the weights into the object store; the copy before it goes when it is replaced.
    yield "object store", 1, {"published weights": DTYPE_BYTES[config.learner.dtype] * trained.parameters}


def _shape(model: str) -> ModelShape:
    directory = find_model(model)
    assert directory is not None, "the caller looked first"
    return model_shape(directory)
