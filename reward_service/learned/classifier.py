"""The step model itself: a sequence classifier of Transformers, in float32, on the GPU if there is one.

The only module of the reward service that loads torch and Transformers; whoever imports it does so where it is used.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_service.errors import StepModelUnusable
from reward_service.learned.config import StepModelConfig
from reward_service.learned.files import files_digest, model_directory
from reward_service.learned.model import ModelFacts

Encoded = list[int]
"""Token ids of one text."""


class Classifier:
    """Blocks while it works; safe to call from several threads."""

    def __init__(self, config: StepModelConfig) -> None:
        """Load the model.

        Raises:
            StepModelUnusable: it is not there, is no trained classifier, or cannot read texts as long as configured.
        """
        directory = model_directory(config.model)
        self._tokens = config.text_tokens
        self._tokenizer, self._model = _loaded(directory)
        _refuse_longer_texts(config, self._tokenizer, self._model)
        self._padding = _padding(config.model, self._tokenizer, self._model)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        self._encoding = threading.Lock()
        self.facts = ModelFacts(files_digest(directory), self._model.config.num_labels)

    def encoded(self, texts: Sequence[str]) -> list[Encoded]:
        """Token ids of each text; one that is too long loses its beginning."""
        if not texts:
            return []
        # A tokenizer that is told to truncate in two threads at once refuses.
        with self._encoding:
            return self._tokenizer(list(texts), truncation=True, max_length=self._tokens)["input_ids"]

    def rows(self, batch: Sequence[Encoded]) -> list[list[float]]:
        """The outputs for one batch, in order: logits of shape (texts, labels)."""
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), self._padding)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, text in enumerate(batch):
            # At the right: models with absolute positions count from the left.
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        with torch.inference_mode():
            output = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        return output.logits.float().cpu().tolist()


def _loaded(directory: Path) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, truncation_side="left")
        model, found = AutoModelForSequenceClassification.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise StepModelUnusable(str(directory), f"Transformers cannot load it ({error})") from error
    if found["missing_keys"]:
        # Transformers would fill them with random numbers, and the model would score at random.
        raise StepModelUnusable(str(directory), f"no weights for {sorted(found['missing_keys'])[:5]}")
    return tokenizer, model


def _refuse_longer_texts(config: StepModelConfig, tokenizer: Any, model: Any) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    most = min(tokenizer.model_max_length, positions)
    if config.text_tokens > most:
        raise StepModelUnusable(
            config.model, f"it reads at most {most} tokens, and step_model.text_tokens is {config.text_tokens}"
        )


def _padding(name: str, tokenizer: Any, model: Any) -> int:
    """The token that fills a batch. Decoders look for the last token that is not this one, so both must agree on it."""
    settings = model.config.get_text_config()
    known = (getattr(settings, "pad_token_id", None), tokenizer.pad_token_id, tokenizer.eos_token_id)
    padding = next((token for token in known if token is not None), None)
    if padding is None:
        raise StepModelUnusable(name, "neither the model nor its tokenizer has a padding or an end token")
    settings.pad_token_id = padding
    return padding
