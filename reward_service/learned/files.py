"""The files of a step model: whether they are there, and what they hash to. Loads nothing of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from reward_service.errors import StepModelUnusable
from reward_service.learned.config import StepModelConfig
from reward_service.learned.rendering import RENDERING_VERSION

_LOADED = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What Transformers reads: configuration, weights, tokenizer."""
_WEIGHTS = "*.safetensors"
_DECIDING = ("part_characters", "text_characters", "text_tokens")


def model_directory(model: str) -> Path:
    """The directory of a step model.

    Raises:
        StepModelUnusable: it is not there, or holds no model.
    """
    directory = Path(model)
    if not directory.is_dir():
        raise StepModelUnusable(model, "no such directory")
    if not (directory / "config.json").is_file():
        raise StepModelUnusable(model, "no config.json")
    if not any(directory.glob(_WEIGHTS)):
        raise StepModelUnusable(model, "no weights in safetensors")
    return directory


def files_digest(directory: Path) -> str:
    """SHA-256, in hexadecimal, of the names and contents of all files that make the model."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _LOADED for path in directory.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def fingerprint(config: StepModelConfig, digest: str | None = None) -> str:
    """SHA-256, in hexadecimal, of what decides the outputs: the model's files, and what it reads of a step.

    `digest` is that of the files where somebody has read them; None reads them. Where they are does not count.

    Raises:
        StepModelUnusable: there is no digest and no model.
    """
    recipe = {
        "rendering": RENDERING_VERSION,
        "settings": config.model_dump(mode="json", include=set(_DECIDING)),
        "files": files_digest(model_directory(config.model)) if digest is None else digest,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
