"""Model weights as one flat buffer with a manifest: what travels from the learner to the engines.

Owns `WeightManifest` and the way from named tensors to bytes and back. One buffer means one object in Ray's store, one
copy into shared memory and one digest. Needs torch and numpy; knows nothing of Ray or vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np
import torch

from actors.errors import WeightsCorrupted

ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies in the buffer."""

    name: str
    dtype: str
    """A torch dtype without its prefix: `bfloat16`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the buffer."""

    @property
    def byte_count(self) -> int:
        return _dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """Names, shapes, places and the digest of one set of weights."""

    entries: tuple[TensorEntry, ...]
    byte_count: int
    digest: str
    """BLAKE3 of the whole buffer."""

    def verify(self, buffer: np.ndarray) -> None:
        """Raise `WeightsCorrupted` unless the buffer is byte for byte what was sent."""
        found = _digest(buffer)
        if found != self.digest:
            raise WeightsCorrupted(
                f"weights: digest {found[:12]}… over {buffer.nbytes} bytes, expected {self.digest[:12]}… over "
                f"{self.byte_count}; publish again, and check the shared-memory mount if it repeats"
            )

    def tensors(self, buffer: np.ndarray) -> Iterator[tuple[str, torch.Tensor]]:
        """Views into the buffer, in order; valid as long as the buffer is."""
        flat = torch.from_numpy(buffer)
        for entry in self.entries:
            window = flat[entry.offset : entry.offset + entry.byte_count]
            yield entry.name, window.view(_dtype(entry.dtype)).reshape(entry.shape)


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One policy version, ready to be fetched by any engine."""

    manifest: WeightManifest
    reference: Any
    """`ray.ObjectRef` of the buffer, a uint8 array."""
    version: int


def flatten(tensors: Mapping[str, torch.Tensor]) -> tuple[WeightManifest, np.ndarray]:
    """Copy named tensors into one uint8 buffer; returns its manifest and the buffer of shape [bytes]."""
    entries, end = [], 0
    for name, tensor in tensors.items():
        entry = TensorEntry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end)
        entries.append(entry)
        end = -(-(end + entry.byte_count) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    buffer = np.zeros(end, dtype=np.uint8)
    manifest = WeightManifest(tuple(entries), end, "")
    for (_, target), source in zip(manifest.tensors(buffer), tensors.values(), strict=True):
        target.copy_(source.detach())
    return WeightManifest(manifest.entries, end, _digest(buffer)), buffer


def _digest(buffer: np.ndarray) -> str:
    return blake3.blake3(buffer.data, max_threads=blake3.blake3.AUTO).hexdigest()


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
