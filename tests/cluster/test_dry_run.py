from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from actors.config import RolloutConfig
from cluster.dry_run import describe, learner_bytes, model_size, rollout_bytes
from cluster.presets import load_config, preset_names
from learner.config import LearnerConfig
from tests.cluster.builders import small_config

MIB = 2**20


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A directory with a configuration and no weights."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def told(*overrides: str, preset: str = "quickstart") -> str:
    console = Console(file=StringIO(), width=160)
    describe(load_config(preset, overrides), console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_size_of_a_model_follows_from_its_configuration(small_model: Path) -> None:
    attention = 2 * 16 * 16 + 2 * 16 * 8
    layer = attention + 3 * 16 * 32 + 2 * 16
    size = model_size(small_model)
    assert size.parameters == 100 * 16 + 2 * layer + 16
    assert size.kv_values_per_token == 2 * 2 * 2 * 4


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
    config = LearnerConfig.model_validate({"model_path": "x", "zero_stage": stage, "ranks": 4})
    assert learner_bytes(MIB, config) == {name: int(size * MIB) for name, size in expected.items()}


def test_a_float32_model_is_its_own_master_copy_and_a_reference_costs_another() -> None:
    settings = {"model_path": "x", "zero_stage": 0, "dtype": "float32", "loss": {"kl": {"kind": "reference"}}}
    held = learner_bytes(MIB, LearnerConfig.model_validate(settings))
    assert held == {
        "weights": 4 * MIB,
        "gradients": 4 * MIB,
        "master weights": 0,
        "Adam moments": 8 * MIB,
        "reference policy": 4 * MIB,
    }


def test_an_engine_holds_its_part_of_the_weights_and_a_whole_cache() -> None:
    engine = {"dtype": "bfloat16", "tensor_parallel_size": 2, "kv_cache_gib": 3}
    assert rollout_bytes(MIB, RolloutConfig.model_validate({"model": "x", "engine": engine})) == {
        "weights": MIB,
        "KV cache": 3 * 1024 * MIB,
    }


def test_the_description_begins_with_a_configuration_that_loads(tmp_path: Path) -> None:
    settings, _, _ = told("seed=3").partition("Placement")
    path = tmp_path / "resolved.yaml"
    path.write_text(settings)
    assert load_config(str(path)) == load_config("quickstart", ["seed=3"])


def test_the_description_says_who_runs_where_and_what_it_holds() -> None:
    model = small_config().rollout.model
    engine = ["rollout.engine.dtype=bfloat16", "rollout.engine.kv_cache_gib=1", "rollout.engine.max_model_len=384"]
    learner = ["learner.dtype=bfloat16", "learner.zero_stage=0", "learner.loss.kl.kind=none"]
    cpus = ["placement.learner_cpus=0.9", "placement.rollout_cpus=0.7", "placement.sandbox_cpus=0.1"]
    text = told(f"rollout.model={model}", f"learner.model_path={model}", *engine, *learner, *cpus)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["learner", "1", "0.9", "0"] in rows
    assert ["all", "3", "1.7", "0"] in rows
    # 134,515,008 parameters: 2 bytes of weights, 4 of gradients, 4 of masters, 8 of moments each.
    assert ["learner", "1", "weights", "0.25"] in rows
    assert ["learner", "1", "Adam moments", "1.00"] in rows
    assert ["learner", "1", "all", "2.25"] in rows
    # 30 layers, 3 heads of 64: 11,520 keys and values a token, 2 bytes each, in 1 GiB.
    assert ["rollout", "1", "KV cache (46603 tokens, 121 full contexts)", "1.00"] in rows


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_described_whether_its_model_is_here_or_not(name: str) -> None:
    text = told(preset=name)
    assert ("model not here: memory not estimated" in text) != ("Estimated memory" in text)


def test_a_model_that_is_not_here_is_named_and_no_error() -> None:
    text = told("rollout.model=/nowhere")
    assert "rollout.model /nowhere: model not here: memory not estimated" in text
    assert "Placement" in text
