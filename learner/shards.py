"""Files of float32 state, one a rank, from which any range of any parameter can be read.

Owns the layout of `state-00000-of-00002.safetensors`: a tensor `KIND/NAME` for each piece, and in the header where in
the flattened parameter each begins. Knows nothing of DeepSpeed; the digest is of the bytes that were to be written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import torch
from safetensors import safe_open
from torch import Tensor

from learner.engine_state import Piece
from learner.errors import BadCheckpoint

_DTYPES = {torch.float32: "F32", torch.uint8: "U8"}
_RNG = "rng"
_STARTS = "starts"
_CHUNK_BYTES = 1 << 24


def shard_name(rank: int, ranks: int) -> str:
    """File name of one rank's share."""
    return f"state-{rank:05d}-of-{ranks:05d}.safetensors"


def write_shard(path: Path, pieces: Sequence[Piece], rng: Tensor) -> str:
    """Write one rank's pieces and the state of its random numbers; gives the file's BLAKE3 digest."""
    tensors = {f"{kind}/{piece.name}": tensor for piece in pieces for kind, tensor in piece.tensors.items()}
    starts = {piece.name: piece.start for piece in pieces}
    return write_safetensors(path, {**tensors, _RNG: rng}, {_STARTS: json.dumps(starts)})


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file, durable when this returns; gives its BLAKE3 digest in hexadecimal.

    Tensors must be contiguous and on the host. Goes in parts during which other threads may run: the library's own
    writer first copies every tensor.
    """
    hasher = blake3.blake3()
    with path.open("wb") as file:
        for part in _parts(tensors, metadata):
            file.write(part)
            hasher.update(part)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()


def _parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    header = json.dumps(_header(tensors, metadata)).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors.values():
        array: Any = tensor.view(torch.uint8).numpy()
        content = memoryview(array) if tensor.numel() else memoryview(b"")
        for start in range(0, len(content), _CHUNK_BYTES):
            yield content[start : start + _CHUNK_BYTES]


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    return header


@dataclass(frozen=True, slots=True)
class _Stored:
    """One piece in one file."""

    file: Any
    start: int
    numel: int


class Shards:
    """All shards of a checkpoint, whoever wrote them."""

    def __init__(self, directory: Path, ranks: int) -> None:
        """Raises `BadCheckpoint` where a shard of the `ranks` that wrote it is missing."""
        self._directory = directory
        self._files = [self._open(shard_name(rank, ranks)) for rank in range(ranks)]
        self._stored: dict[str, list[_Stored]] = {}
        for file in self._files:
            for name, start in json.loads(file.metadata()[_STARTS]).items():
                [numel] = file.get_slice(f"master/{name}").get_shape()
                self._stored.setdefault(name, []).append(_Stored(file, start, numel))

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """[numel] float32: elements `start` … `start + numel` of the flattened parameter, put together from all shards.

        Raises:
            BadCheckpoint: the shards do not hold them all.
        """
        out, found = torch.empty(numel, dtype=torch.float32), 0
        for stored in self._stored.get(name, ()):
            low, high = max(start, stored.start), min(start + numel, stored.start + stored.numel)
            if low < high:
                part = stored.file.get_slice(f"{kind}/{name}")[low - stored.start : high - stored.start]
                out[low - start : high - start] = part
                found += high - low
        if found != numel:
            raise BadCheckpoint(
                f"checkpoint {self._directory}: {found} of {numel} elements of {kind} {name!r}; expected all of them; "
                "resume from an earlier checkpoint"
            )
        return out

    def rng(self, rank: int) -> Tensor:
        """State of the random numbers of a rank; those that there were none of begin like an earlier one."""
        return self._files[rank % len(self._files)].get_tensor(_RNG)

    def _open(self, name: str) -> Any:
        path = self._directory / name
        if not path.is_file():
            raise BadCheckpoint(f"checkpoint {self._directory}: shard {name} is missing; resume from an earlier one")
        return safe_open(path, framework="pt")
