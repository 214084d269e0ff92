"""Which weights of the model are trained, and what the model is as a whole.

Owns `Trained`, its variant `WholeModel`, and the access to parameters that ZeRO has partitioned; `lora` has the other
variant. Consumes a causal LM, produces its parameters as anyone else loads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import deepspeed
from torch import Tensor
from transformers import PreTrainedModel

from learner.config import FullTraining, LearnerConfig

if TYPE_CHECKING:
    from learner.lora import Adapters


class Trained(Protocol):
    """How a model is trained."""

    frozen: str
    """Identifies the weights that no update changes and no checkpoint holds; empty where there are none."""

    def whole(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the language model under its Hugging Face name, whole, in the training dtype.

        Tied weights appear once. Collective: every rank must exhaust it. A tensor is valid until the next item; copy
        what is to be kept.
        """
        ...


class WholeModel:
    """Every weight is trained."""

    frozen = ""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def whole(self) -> Iterator[tuple[str, Tensor]]:
        """The live parameters."""
        for name, parameter in self._model.named_parameters():
            with gathered([parameter]):
                yield name, parameter.data


def choose_trained(model: PreTrainedModel, config: LearnerConfig, *, with_reference: bool) -> WholeModel | Adapters:
    """Make `model` ready to be trained as the settings say; before DeepSpeed has it.

    `with_reference`: something will compare the policy with a frozen one.
    """
    if isinstance(config.trained, FullTraining):
        return WholeModel(model)
    # PEFT takes more than a second of every start to import.
    from learner.lora import Adapters

    return Adapters(model, config.trained, with_reference=with_reference)


def gathered(parameters: Iterable[Any]) -> AbstractContextManager[None]:
    """Parameters are whole inside, on every rank. Collective; what is written to them is lost at ZeRO 3."""
    return _gathered(parameters, None)


def overwriting(parameters: Iterable[Any]) -> AbstractContextManager[None]:
    """Parameters are whole inside and keep what is written to them; every rank must write the same. Collective."""
    return _gathered(parameters, 0)


def _gathered(parameters: Iterable[Any], writer: int | None) -> AbstractContextManager[None]:
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return nullcontext()
    return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=writer)
