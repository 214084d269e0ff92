"""The memory plan, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from actors.config import RolloutConfig
from learner.config import LearnerConfig, ValueHeadConfig
from learner.memory import (
    ModelShape,
    checkpoint_bytes,
    engine_bytes,
    held_bytes,
    layer_bytes,
    token_bytes,
    update_bytes,
)
from learner.packing import Keep, items_to_train, pack
from learner.random_batches import EpisodeShape, filling_batch

MIB = 2**20
SHAPE = ModelShape(MIB, layers=2, hidden=16, intermediate=32, query_width=16, kv_width=8, vocabulary=100)


def learner(**changes: Any) -> LearnerConfig:
    return LearnerConfig.model_validate({"model_path": "x", **changes})


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, {"weights": 2, "gradients": 4, "master weights": 4, "Adam moments": 8}),
        (1, {"weights": 2, "gradients": 4, "master weights": 1, "Adam moments": 2}),
        (2, {"weights": 2, "gradients": 1, "master weights": 1, "Adam moments": 2}),
        (3, {"weights": 0.5, "gradients": 1, "master weights": 1, "Adam moments": 2}),
    ],
)
def test_each_zero_stage_divides_one_thing_more_among_four_ranks(stage: int, expected: dict[str, float]) -> None:
    held = held_bytes(SHAPE, learner(zero_stage=stage, ranks=4), None)
    assert held == {name: int(size * MIB) for name, size in expected.items()}


def test_a_float32_model_is_its_own_master_copy_and_a_reference_costs_another() -> None:
    held = held_bytes(SHAPE, learner(zero_stage=0, dtype="float32", loss={"kl": {"kind": "reference"}}), None)
    assert held == {
        "weights": 4 * MIB,
        "gradients": 4 * MIB,
        "master weights": 0,
        "Adam moments": 8 * MIB,
        "reference policy": 4 * MIB,
    }


def test_adapters_are_all_that_has_gradients_masters_and_moments_and_all_that_a_reference_costs() -> None:
    lora = {"kind": "lora", "rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}
    config = learner(zero_stage=1, ranks=4, trained=lora, loss={"kl": {"kind": "reference"}})
    # Two layers of rank 4: 16 + 16 for queries, 16 + 8 for values, 32 + 16 for the way down.
    adapters = 2 * 4 * (32 + 24 + 48)
    assert held_bytes(SHAPE, config, None) == {
        "weights": 2 * (MIB + adapters),
        "gradients": 4 * adapters,
        "master weights": 4 * adapters // 4,
        "Adam moments": 8 * adapters // 4,
        "reference policy": 2 * adapters,
    }
    assert update_bytes(SHAPE, config, None, tokens=1000, predictions=400)["gradient of the head"] == 0
    assert checkpoint_bytes(SHAPE, config) == 12 * adapters // 4 + 2 * MIB


def test_what_a_layer_keeps_of_a_token_is_counted_tensor_by_tensor() -> None:
    # Two norms of three, attention (q, out, 2·(k + v)) and its output again, feed-forward of four: floats of 4 bytes.
    assert layer_bytes(SHAPE, "float32") == 4 * (2 * 3 * 16 + (2 * 16 + 4 * 8) + 16 + 4 * 32)
    # In bfloat16 a norm's input (4 bytes) and attention stay in float32.
    assert layer_bytes(SHAPE, "bfloat16") == 2 * (4 + 2 + 2) * 16 + 4 * (2 * 16 + 4 * 8) + 2 * 16 + 2 * 4 * 32


def test_the_peak_of_an_update_grows_with_its_row_and_with_what_is_predicted() -> None:
    config = learner(dtype="float32", zero_stage=0)
    plan = update_bytes(SHAPE, config, None, tokens=1000, predictions=400)
    assert plan["activations"] == 1000 * (2 * layer_bytes(SHAPE, "float32") + 3 * 4 * 16)
    assert plan["free between activations"] == pytest.approx(0.2 * plan["activations"], abs=1)
    assert plan["workspace of a layer"] == 1000 * layer_bytes(SHAPE, "float32")
    assert plan["logits at action tokens"] == 2 * 4 * 400 * 100
    assert plan["gradient of the head"] == 4 * 100 * 16
    assert held_bytes(SHAPE, config, None).items() <= plan.items()


def test_a_critic_on_layers_of_its_own_is_a_second_model_and_the_reference_stays_one() -> None:
    config = learner(dtype="float32", zero_stage=0, loss={"kl": {"kind": "reference"}})
    alone = update_bytes(SHAPE, config, None, tokens=1000, predictions=400)
    both = update_bytes(SHAPE, config, ValueHeadConfig(backbone="separate"), tokens=1000, predictions=400)
    twice = {"weights", "gradients", "Adam moments", "activations", "free between activations"}
    assert both == {name: 2 * size if name in twice else size for name, size in alone.items()}
    assert update_bytes(SHAPE, config, ValueHeadConfig(backbone="shared"), tokens=1000, predictions=400) == alone


def test_recomputed_layers_keep_their_input_and_one_of_them_is_whole() -> None:
    config = learner(dtype="float32", activations={"kind": "recompute"})
    # Two inputs, a whole layer and the last norm's three: floats of 4 bytes.
    assert token_bytes(SHAPE, config) == 4 * 2 * 16 + layer_bytes(SHAPE, "float32") + 4 * 3 * 16


@pytest.mark.parametrize(
    ("dtype", "ranks", "bytes_each"), [("float32", 1, 12), ("bfloat16", 1, 14), ("bfloat16", 4, 5), ("float32", 2, 10)]
)
def test_a_checkpoint_costs_the_first_rank_its_share_and_the_model(dtype: str, ranks: int, bytes_each: int) -> None:
    assert checkpoint_bytes(SHAPE, learner(dtype=dtype, ranks=ranks)) == bytes_each * MIB


def test_an_engine_holds_its_part_of_the_weights_and_a_whole_cache() -> None:
    engine = {"dtype": "bfloat16", "tensor_parallel_size": 2, "kv_cache_gib": 3}
    assert engine_bytes(SHAPE, RolloutConfig.model_validate({"model": "x", "engine": engine})) == {
        "weights": MIB,
        "KV cache": 3 * 1024 * MIB,
    }


def test_the_probe_fills_rows_with_whole_groups() -> None:
    episodes = EpisodeShape(prompt=20, action=10, observation=5, steps=2, group=3)
    assert episodes.distinct_tokens == 20 + 3 * 25
    batch = filling_batch(episodes, vocabulary=50, tokens=200)
    assert len(batch) == 6
    [rows] = pack(items_to_train(batch, Keep.CREDITED), 95, 1)
    # Nothing but the prompt is shared, so each group fills a row, but for tokens that random sequences share.
    assert [row.token_count for row in rows] == [95, 95]
