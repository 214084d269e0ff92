"""Sequence classifiers small enough for a test, with random weights and a token for every byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

LABELS = 3
CONTEXT = 256
"""Tokens, so characters of ASCII."""
Family = Literal["encoder", "decoder"]


def save_classifier(directory: Path, family: Family = "encoder", seed: int = 0) -> Path:
    """A classifier as Transformers saves it."""
    import torch

    torch.manual_seed(seed)
    model = _encoder() if family == "encoder" else _decoder()
    with torch.no_grad():
        for weights in model.parameters():
            # Spread out, so that texts that differ get outputs that differ.
            weights.copy_(torch.randn_like(weights) * 0.5)
    model.save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    return directory


def save_headless(directory: Path) -> Path:
    """A model without the layer that classifies."""
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**_BERT)).save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    return directory


def outputs_alone(directory: Path, texts: Sequence[str]) -> list[list[float]]:
    """The outputs for each text by itself, without any padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.inference_mode():
        ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
        return [model(input_ids=one).logits[0].tolist() for one in ids]


_SMALL: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 256,
    "num_labels": LABELS,
}
_BERT: dict[str, Any] = _SMALL | {"hidden_dropout_prob": 0.1}


def _encoder() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**_BERT))


def _decoder() -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(
        LlamaConfig(**_SMALL, num_key_value_heads=2, bos_token_id=None, eos_token_id=None)
    )


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens(["<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, pad_token="<pad>")
