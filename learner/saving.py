"""Checkpoints of a learner: copied in a moment, written while training goes on.

Owns the files that a rank writes and the thread that writes them. Consumes a DeepSpeed engine, produces files and their
digests; which directory they go to and when it counts as a checkpoint is the caller's business.

```
model/                               rank 0: Hugging Face safetensors and config
reference/                           rank 0: the frozen reference policy, where there is one: a model, or adapters
state-00000-of-00002.safetensors     every rank: its share of master weights and Adam moments
learner.json                         rank 0: updates, KL coefficient, optimiser steps, ranks, sizes of the parameters,
                                     fingerprint of the weights that are not trained
```
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import blake3
import torch
from torch import Tensor

from learner.engine_state import Piece, adam_steps, own_pieces, parameter_sizes, restore
from learner.errors import BadCheckpoint, LearnerLost
from learner.reference import Write
from learner.shards import Shards, shard_name, write_shard
from learner.trained import Trained

Digests = dict[str, str]
"""BLAKE3 in hexadecimal, by path relative to the learner's directory."""

_FACTS = "learner.json"
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """What a rank knows of its own past beside weights and moments."""

    updates: int
    """Optimiser steps of reinforcement, for the schedule of the learning rate."""
    kl_coef: float
    """β, which an adaptive control has moved."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What `learner.json` holds."""

    progress: Progress
    adam_steps: int
    """Optimiser steps behind the moments."""
    ranks: int
    """Ranks that wrote the checkpoint."""
    parameters: Mapping[str, int]
    """Elements of every trained parameter."""
    frozen: str = ""
    """`Trained.frozen` of the learner that wrote it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy, in host memory, of what one rank has to write."""

    rank: int
    facts: Facts
    pieces: Sequence[Piece]
    rng: Tensor
    weights: Mapping[str, Tensor]
    """The whole model under its Hugging Face names; empty on all ranks but the first."""


def take_snapshot(engine: Any, rank: int, ranks: int, progress: Progress, trained: Trained) -> Snapshot:
    """Copy the state of this rank. Collective."""
    copies = [_copied(piece) for piece in own_pieces(engine, rank, ranks)]
    masters = {(piece.name, piece.numel): piece.tensors["master"] for piece in copies}
    weights: dict[str, Tensor] = {}
    for name, tensor in trained.whole():
        if rank == 0:
            # A float32 model on one rank is its own master: one copy of it is enough.
            master = masters.get((f"model.{name}", tensor.numel())) if tensor.dtype == torch.float32 else None
            weights[name] = _on_host(tensor) if master is None else master.view_as(tensor)
    facts = Facts(progress, adam_steps(engine), ranks, parameter_sizes(engine), trained.frozen)
    return Snapshot(rank, facts, copies, torch.get_rng_state(), weights)


def write_snapshot(snapshot: Snapshot, directory: Path, model: Any, reference: Write | None) -> Digests:
    """Write a rank's files, durable when this returns. `model` gives the Hugging Face configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    name = shard_name(snapshot.rank, snapshot.facts.ranks)
    digests = {name: write_shard(directory / name, snapshot.pieces, snapshot.rng)}
    if snapshot.rank == 0:
        (directory / _FACTS).write_text(json.dumps(asdict(snapshot.facts)))
        model.save_pretrained(directory / "model", state_dict=_with_ties(model, dict(snapshot.weights)))
        if reference is not None:
            reference(directory / "reference")
        digests |= _digests_of_others(directory)
    return digests


def restore_engine(engine: Any, directory: Path, rank: int, trained: Trained) -> Progress:
    """Continue from what any number of ranks wrote at any ZeRO stage. Collective.

    Raises:
        BadCheckpoint: it is of another model or critic, of adapters of other frozen weights, or a part is missing.
    """
    facts = _read_facts(directory)
    expected = parameter_sizes(engine)
    if facts.parameters != expected:
        odd = sorted(n for n in {*facts.parameters, *expected} if facts.parameters.get(n) != expected.get(n))
        raise BadCheckpoint(
            f"checkpoint {directory}: {len(odd)} parameters differ from the learner's (first {odd[0]!r}: found "
            f"{facts.parameters.get(odd[0])} elements, expected {expected.get(odd[0])}); it is of another model or "
            "critic: resume with the settings that wrote it"
        )
    if facts.frozen != trained.frozen:
        raise BadCheckpoint(
            f"checkpoint {directory}: fingerprint of frozen weights {facts.frozen!r}, expected {trained.frozen!r}; its "
            "adapters are of another base model or alpha: resume with the learner.model_path and learner.trained that "
            "wrote it"
        )
    shards = Shards(directory, facts.ranks)
    restore(engine, shards.read, facts.adam_steps)
    torch.set_rng_state(shards.rng(rank))
    return facts.progress


class BackgroundWriter:
    """Writes one snapshot at a time in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Digests] | None = None

    def start(self, write: Callable[[], Digests]) -> None:
        """Raises `RuntimeError` while the one before is still being written, or has not been asked for."""
        if self._writing is not None:
            raise RuntimeError("checkpoint: one is being written; expected none; wait for it before the next one")
        self._writing = self._thread.submit(write)

    def written(self) -> Digests | None:
        """Digests of the files, once they are written; None before. Raises what went wrong."""
        if self._writing is None or not self._writing.done():
            return None
        done, self._writing = self._writing, None
        return done.result()


class PendingSave:
    """A checkpoint that ranks are writing, as the driver sees it."""

    def __init__(self, poll: Callable[[], Sequence[Digests | None]], seconds: float) -> None:
        """`poll` asks each rank for its digests, None where it is not done; `seconds`: longest wait for all."""
        self._poll = poll
        self._seconds = seconds

    def wait(self) -> Digests:
        """Digests of all files of all ranks, once they are written.

        Raises:
            LearnerLost: a rank died, or they were not written in time.
        """
        end = time.monotonic() + self._seconds
        found: dict[int, Digests] = {}
        while True:
            answers = self._poll()
            found |= {rank: digests for rank, digests in enumerate(answers) if digests is not None}
            if len(found) == len(answers):
                return {name: digest for digests in found.values() for name, digest in digests.items()}
            if time.monotonic() > end:
                raise LearnerLost(
                    f"checkpoint: {len(answers) - len(found)} of {len(answers)} ranks still writing after "
                    f"{self._seconds:.0f} s; look at the disk, and start again from the last checkpoint"
                )
            time.sleep(_POLL_SECONDS)


def _copied(piece: Piece) -> Piece:
    return Piece(piece.name, piece.start, {kind: _on_host(tensor) for kind, tensor in piece.tensors.items()})


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _with_ties(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face wants tied names in the state dict before it drops them itself."""
    ties = (model.all_tied_weights_keys or {}).items()
    return {**weights, **{alias: weights[source] for alias, source in ties if source in weights}}


def _digests_of_others(directory: Path) -> Digests:
    """Digests of all files but the shards, which have theirs from the bytes themselves; durable when this returns."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("state-")]
    return {str(path.relative_to(directory)): _settled(path) for path in files}


def _settled(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return blake3.blake3().update_mmap(path).hexdigest()


def _read_facts(directory: Path) -> Facts:
    path = directory / _FACTS
    if not path.is_file():
        raise BadCheckpoint(f"checkpoint {directory}: no {_FACTS} there; resume from an earlier checkpoint")
    written = json.loads(path.read_text())
    return Facts(progress=Progress(**written.pop("progress")), **written)
