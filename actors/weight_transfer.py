"""vLLM's side of a weight publish on the object-store path: a transfer engine that loads from shared memory.

Owns `ObjectStoreTransferEngine` and its registration. vLLM's engine core runs in a process of its own that knows
nothing of Ray, so the rollout actor lays the buffer that it got from Ray's object store into a shared-memory file, and
this engine maps that file, checks its digest and loads it layer by layer. Registered by the `vllm.general_plugins`
entry point, which vLLM loads in the engine core and in every worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.weights import TensorEntry, WeightManifest

BACKEND = "objectstore"


def register() -> None:
    """Entry point: make `objectstore` known to vLLM. vLLM may load its plugins twice in one process."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, "ObjectStoreTransferEngine")


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Nothing to agree on: there is no rendezvous."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    """Where the weights lie, and what they must be."""

    path: str
    entries: list[dict[str, Any]]
    byte_count: int
    digest: str


def update_info(path: str, manifest: WeightManifest) -> dict[str, Any]:
    """The update as plain data, as vLLM's control plane carries it."""
    entries = [{"name": e.name, "dtype": e.dtype, "shape": list(e.shape), "offset": e.offset} for e in manifest.entries]
    return {"path": path, "entries": entries, "byte_count": manifest.byte_count, "digest": manifest.digest}


def _manifest(update: ObjectStoreUpdate) -> WeightManifest:
    entries = tuple(TensorEntry(e["name"], e["dtype"], tuple(e["shape"]), e["offset"]) for e in update.entries)
    return WeightManifest(entries, update.byte_count, update.digest)


class ObjectStoreTransferEngine(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Loads a whole model from a shared-memory file through vLLM's layerwise reload.

    The CPU worker packs linear weights after loading, so tensors cannot be copied in place: layerwise reload rebuilds
    each layer from checkpoint-format weights, as vLLM's own engines do.
    """

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        del init_info

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load synchronously; the base class would synchronise an accelerator that need not exist."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        manifest = _manifest(update_info)
        buffer = np.memmap(update_info.path, dtype=np.uint8, mode="c", shape=(update_info.byte_count,))
        manifest.verify(buffer)
        # vLLM types the model as a plain module, whose attributes are tensors or modules.
        load: Any = self.model.load_weights
        load(manifest.tensors(buffer))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        _refresh_tied_heads(self.model)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def _refresh_tied_heads(model: torch.nn.Module) -> None:
    """Pack the output head again where it shares the embedding's weights.

    A tied head owns no checkpoint tensor, so layerwise reload skips it, and the packed copy that the CPU kernel made at
    start would go on serving the old weights: hidden states from the new policy, logits from the old one.
    """
    modules = list(model.modules())
    embedded = {_address(module) for module in modules if _is_input_embedding(module)}
    for module in modules:
        if isinstance(module, ParallelLMHead) and _address(module) in embedded:
            module.quant_method.process_weights_after_loading(module)


def _address(module: Any) -> int:
    return module.weight.data_ptr()


def _is_input_embedding(module: torch.nn.Module) -> bool:
    return isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
