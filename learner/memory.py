"""How much memory the parts that hold a model need, before any of it is allocated.

Pure arithmetic over a model's dimensions and the settings; loads no torch. Owns `ModelShape` and the items of the plan.
The interpreter and its libraries are not in it. `memory_probe` measures what this estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.config import GIB, RolloutConfig
from learner.config import LearnerConfig, LinearName, LoraTraining, RecomputeActivations, ValueHeadConfig
from learner.objective.config import ReferenceKl

DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
_MASTER_BYTES = 4
_ADAM_BYTES = 8
"""Two float32 moments."""
_FREE_SHARE = 0.2
"""Blocks of the heap that are free at the peak, as a share of the activations between which they lie. It follows from
the order in which layers ask for blocks of different sizes, and is measured: docs/measurements.md. With a mapping for
every tensor (`MALLOC_TRIM_THRESHOLD_=131072`) a process takes no more than its tensors and some megabytes, but an
update takes twice as long."""

_FREE_SHARE_BESIDE_ADAPTERS = 0.7
"""The same where layers have adapters: each of them makes three results to keep their sum."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a decoder with gated feed-forward layers (Llama, Qwen) that memory depends on."""

    parameters: int
    """Tied weights counted once."""
    layers: int
    hidden: int
    intermediate: int
    """Width of the feed-forward layer."""
    query_width: int
    """Of all query heads together."""
    kv_width: int
    """Of all key heads together; values are as wide."""
    vocabulary: int

    @property
    def kv_values_per_token(self) -> int:
        """Keys and values of all layers that one token leaves in an engine's cache."""
        return 2 * self.layers * self.kv_width


def held_bytes(shape: ModelShape, config: LearnerConfig, critic: ValueHeadConfig | None) -> dict[str, int]:
    """Bytes that one rank holds between micro-batches, by item. ZeRO divides the optimiser's state among the ranks from
    stage 1 on, the gradients from stage 2 on and the weights at stage 3 (Rajbhandari et al. 2020, §5). Gradients are
    summed in float32.

    A float32 model is its own master copy unless ZeRO keeps a partition of it. A critic on layers of its own is a
    second model, counted with the head that it lacks. What is offloaded is counted too: where, the settings say.
    """
    models = _models(critic)
    share = {stage: config.ranks if config.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    precise = config.dtype == "float32" and config.zero_stage == 0
    trained = models * trained_parameters(shape, config)
    all_weights = models * (shape.parameters + adapter_parameters(shape, config))
    held = {
        "weights": DTYPE_BYTES[config.dtype] * all_weights // share[3],
        "gradients": _MASTER_BYTES * trained // share[2],
        "master weights": 0 if precise else _MASTER_BYTES * trained // share[1],
        "Adam moments": _ADAM_BYTES * trained // share[1],
    }
    if isinstance(config.loss.kl, ReferenceKl):
        held["reference policy"] = DTYPE_BYTES[config.dtype] * trained_parameters(shape, config)
    return held


def _models(critic: ValueHeadConfig | None) -> int:
    return 2 if critic is not None and critic.backbone == "separate" else 1


def trained_parameters(shape: ModelShape, config: LearnerConfig) -> int:
    """Parameters that have a gradient, a master and moments: all of them, or those of the adapters. A reference policy
    is a frozen copy of just these."""
    return adapter_parameters(shape, config) or shape.parameters


def adapter_parameters(shape: ModelShape, config: LearnerConfig) -> int:
    """rank·(inputs + outputs) for each adapted layer (Hu et al. 2022, §4.1); 0 where every weight is trained."""
    if not isinstance(config.trained, LoraTraining):
        return 0
    query, kv = shape.hidden + shape.query_width, shape.hidden + shape.kv_width
    feed_forward = shape.hidden + shape.intermediate
    widths: dict[LinearName, int] = {
        "q_proj": query,
        "k_proj": kv,
        "v_proj": kv,
        "o_proj": query,
        "gate_proj": feed_forward,
        "up_proj": feed_forward,
        "down_proj": feed_forward,
    }
    return shape.layers * config.trained.rank * sum(widths[name] for name in config.trained.targets)


def update_bytes(
    shape: ModelShape, config: LearnerConfig, critic: ValueHeadConfig | None, tokens: int, predictions: int
) -> dict[str, int]:
    """Bytes of one rank at the peak of an update, by item: a row is at the head of its backward pass, and earlier rows
    have left their gradients.

    `tokens`: of the longest row, `learner.pack_tokens` unless a trajectory is longer. `predictions`: its positions that
    predict an action token.
    """
    size = DTYPE_BYTES[config.dtype]
    activations = _models(critic) * tokens * token_bytes(shape, config)
    adapters = adapter_parameters(shape, config)
    return {
        **held_bytes(shape, config, critic),
        "activations": activations,
        "free between activations": int((_FREE_SHARE_BESIDE_ADAPTERS if adapters else _FREE_SHARE) * activations),
        # While a layer goes backward it has a gradient for about each number that it kept.
        "workspace of a layer": tokens * layer_bytes(shape, config.dtype),
        # The logits, and their gradient as the backward pass begins.
        "logits at action tokens": 2 * size * predictions * shape.vocabulary,
        # One whole gradient of the output projection before it is added to the others; adapters leave it frozen.
        "gradient of the head": 0 if adapters else size * shape.vocabulary * shape.hidden,
    }


def token_bytes(shape: ModelShape, config: LearnerConfig) -> int:
    """Bytes that all layers and the norm after them keep of one token as the backward pass begins.

    Recomputed layers keep their input alone, and one of them is whole at a time (Chen et al. 2016, §3).
    """
    size, layer = DTYPE_BYTES[config.dtype], layer_bytes(shape, config.dtype)
    last_norm = 3 * size * shape.hidden
    if isinstance(config.activations, RecomputeActivations):
        return shape.layers * size * shape.hidden + layer + last_norm
    return shape.layers * layer + last_norm


def layer_bytes(shape: ModelShape, dtype: str) -> int:
    """Bytes that one layer keeps of one token for its backward pass.

    Norms keep their input in float32, what is left of it after the division, and their output; attention keeps query,
    key, value and output, keys and values once more beside those of their past, and the projection after it the output
    laid out anew; the feed-forward layer keeps gate, its activation, up, and their product. Attention is computed in
    float32, as on a CPU; on a GPU it is at most that.
    """
    size = DTYPE_BYTES[dtype]
    norms = 2 * (4 + 2 * size) * shape.hidden
    attention = 4 * (2 * shape.query_width + 4 * shape.kv_width) + size * shape.query_width
    return norms + attention + 4 * size * shape.intermediate


def checkpoint_bytes(shape: ModelShape, config: LearnerConfig) -> int:
    """Bytes of the copy that the first rank makes for a checkpoint and keeps while it is written: its share of the
    float32 state, and the whole model unless its master weights are just that."""
    state = (_MASTER_BYTES + _ADAM_BYTES) * trained_parameters(shape, config) // config.ranks
    whole = config.dtype == "float32" and config.ranks == 1 and not adapter_parameters(shape, config)
    return state + (0 if whole else DTYPE_BYTES[config.dtype] * shape.parameters)


def engine_bytes(shape: ModelShape, config: RolloutConfig) -> dict[str, int]:
    """Bytes that one engine holds on each of its `tensor_parallel_size` devices, by item."""
    weights = DTYPE_BYTES[config.engine.dtype] * shape.parameters // config.engine.tensor_parallel_size
    return {"weights": weights, "KV cache": config.engine.kv_cache_gib * GIB}
