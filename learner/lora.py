"""LoRA: what is trained are low-rank adapters beside the frozen weights of the model.

h = W·x + (α/r)·B·A·x (Hu et al. 2022, §4.1). Owns `Adapters`: it puts PEFT's layers into a causal LM, gives the model
with the adapters merged into it, and keeps a second set of adapters that makes the same network the reference policy.
There is no dropout: ratios start at exactly one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import blake3
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.config import LoraTraining
from learner.trained import gathered, overwriting

_TRAINED = "trained"
_REFERENCE = "reference"
_HALVES = ("lora_A", "lora_B")
_FROZEN_LAYER = ".base_layer."
"""Between the name of an adapted layer and that of its frozen parameter."""
_SAMPLES = 16
"""Elements of each frozen parameter that go into the fingerprint."""


class Adapters:
    """The adapters of a model, which is changed in place: of its parameters only theirs require a gradient."""

    def __init__(self, model: PreTrainedModel, config: LoraTraining, *, with_reference: bool) -> None:
        """`with_reference`: a second, frozen set of adapters is made.

        Raises:
            ValueError: a target is not among the model's linear layers.
        """
        _expect_targets(model, config.targets)
        self.frozen = _fingerprint(model, config)
        settings = LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=list(config.targets)
        )
        # Not cast to float32: adapters have float32 masters, as all that is trained.
        peft_model = get_peft_model(model, settings, _TRAINED, autocast_adapter_dtype=False)
        if with_reference:
            peft_model.add_adapter(_REFERENCE, settings, autocast_adapter_dtype=False)
        self._model = model
        self._layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}

    def whole(self) -> Iterator[tuple[str, Tensor]]:
        """The live parameters; those of adapted layers merged with their adapters, computed for each item."""
        for name, parameter in self._model.named_parameters():
            owner, _, leaf = name.rpartition(_FROZEN_LAYER)
            if owner and leaf == "weight":
                yield f"{owner}.{leaf}", self._merged(parameter, self._layers[owner])
            elif LoraModel.prefix not in name:
                with gathered([parameter]):
                    yield name.replace(_FROZEN_LAYER, "."), parameter.data

    def freeze_reference(self) -> None:
        """Make the reference's adapters equal to the trained ones. Collective."""
        trained, reference = self._weights(_TRAINED), self._weights(_REFERENCE)
        with gathered(trained.values()):
            self._write_reference({name: parameter.data for name, parameter in trained.items()}, reference)

    def reference(self) -> dict[str, Tensor]:
        """A copy, in host memory, of the reference's adapters by name. Collective."""
        weights = self._weights(_REFERENCE)
        with gathered(weights.values()):
            return {name: parameter.detach().to("cpu", copy=True) for name, parameter in weights.items()}

    def load_reference(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over adapters that `reference` gave. Collective."""
        self._write_reference(tensors, self._weights(_REFERENCE))

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The network computes the reference policy inside; no gradient may be taken there."""
        self._switch(_REFERENCE, frozen=True)
        try:
            yield
        finally:
            self._switch(_TRAINED, frozen=False)

    def _merged(self, weight: nn.Parameter, layer: LoraLayer) -> Tensor:
        a, b = (_half(layer, half, _TRAINED) for half in _HALVES)
        with gathered([weight, a, b]):
            return merged(weight.data, a.data, b.data, layer.scaling[_TRAINED])

    def _weights(self, adapter: str) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{half}": _half(layer, half, adapter) for name, layer in self._layers.items() for half in _HALVES
        }

    @staticmethod
    def _write_reference(tensors: Mapping[str, Tensor], reference: Mapping[str, nn.Parameter]) -> None:
        with overwriting(reference.values()), torch.no_grad():
            for name, parameter in reference.items():
                parameter.copy_(tensors[name])

    def _switch(self, adapter: str, *, frozen: bool) -> None:
        for layer in self._layers.values():
            layer.set_adapter(adapter, inference_mode=frozen)


def merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """W + s·B·A with s = α/r (Hu et al. 2022, §4.1), summed in float32 and given in the dtype of W.

    `weight` [out, in], `a` [r, in], `b` [out, r]; gives [out, in].
    """
    return torch.addmm(weight.float(), b.float(), a.float(), alpha=scaling).to(weight.dtype)


def _half(layer: LoraLayer, half: str, adapter: str) -> nn.Parameter:
    return getattr(layer, half)[adapter].weight


def _expect_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    layers = {
        name.rpartition(".")[2] for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear)
    }
    missing = [name for name in targets if name not in layers]
    if missing:
        raise ValueError(
            f"learner.trained.targets: {missing} are not in {type(model).__name__}; its linear layers are "
            f"{sorted(layers)}; choose among these"
        )


def _fingerprint(model: PreTrainedModel, config: LoraTraining) -> str:
    """Of a sample of every weight and of the weight of an adapter, which no checkpoint of adapters holds either.

    Sampled in bfloat16, so that it is the same in either training dtype.
    """
    hasher = blake3.blake3(f"{config.alpha}/{config.rank}".encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        sample = flat[:: -(-len(flat) // _SAMPLES)].bfloat16().float()
        hasher.update(name.encode()).update(sample.cpu().numpy().tobytes())
    return hasher.hexdigest()
