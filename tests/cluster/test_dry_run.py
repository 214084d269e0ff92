from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.dry_run import describe, expected_predictions, longest_row, model_shape
from cluster.presets import load_config, preset_names
from learner.memory import ModelShape
from tests.cluster.builders import small_config


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


def test_the_dimensions_of_a_model_follow_from_its_configuration(small_model: Path) -> None:
    attention = 2 * 16 * 16 + 2 * 16 * 8
    layer = attention + 3 * 16 * 32 + 2 * 16
    parameters = 100 * 16 + 2 * layer + 16
    assert model_shape(small_model) == ModelShape(
        parameters, layers=2, hidden=16, intermediate=32, query_width=16, kv_width=8, vocabulary=100
    )


def test_actions_are_the_share_of_a_row_that_turns_have_of_turns_and_observations() -> None:
    turns = ("rollout.sampling.max_turn_tokens=30", "rollout.episode.observation_tokens=10")
    assert expected_predictions(small_config(*turns, "learner.pack_tokens=1000")) == 750


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
    # Masters and moments, and the model that is exported: 14 bytes each.
    assert ["checkpoint", "1", "copy that is being written", "1.75"] in rows
    # 30 layers, 3 heads of 64: 11,520 keys and values a token, 2 bytes each, in 1 GiB.
    assert ["rollout", "1", "KV cache (46603 tokens, 121 full contexts)", "1.00"] in rows


def activations(text: str) -> float:
    """GiB."""
    [line] = [line for line in text.splitlines() if "│ activations " in line]
    return float(line.split("│")[4])


def test_memory_is_planned_for_a_trajectory_that_is_longer_than_a_packed_row() -> None:
    model = small_config().rollout.model
    context = (f"rollout.model={model}", f"learner.model_path={model}", "rollout.engine.max_model_len=4096")
    short, equal, long = (told(*context, f"learner.pack_tokens={tokens}") for tokens in (1024, 4096, 8192))
    assert activations(short) == activations(equal)
    assert activations(long) == pytest.approx(2 * activations(equal), abs=0.02)
    assert "planned for a trajectory of 4096 tokens (rollout.engine.max_model_len) in a row to itself" in short
    assert "in a row to itself" not in equal + long


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_plans_for_a_trajectory_that_is_longer_than_its_rows(name: str) -> None:
    config = load_config(name)
    assert longest_row(config) == config.learner.pack_tokens


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_described_whether_its_model_is_here_or_not(name: str) -> None:
    text = told(preset=name)
    assert ("model not here: memory not estimated" in text) != ("Estimated memory" in text)


def test_a_model_that_is_not_here_is_named_and_no_error() -> None:
    text = told("rollout.model=/nowhere")
    assert "rollout.model /nowhere: model not here: memory not estimated" in text
    assert "Placement" in text
