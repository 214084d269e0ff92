"""Checkpoints: all that a run needs to continue with the identical next batch. Owns their layout and their integrity.

A checkpoint is a directory named by its iteration. It is written beside its final place and renamed when whole, with a
manifest of digests written last: what has a manifest is complete, and what does not match it is refused.

```
00005/learner/model/  Hugging Face safetensors, config, tokenizer: opens in any tool
      learner/...     master weights, optimiser, critic, RNG of every rank
      state.json      iteration, policy version, data cursor, elapsed seconds, critic table, curriculum
      manifest.json
```
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import blake3

from cluster.errors import CheckpointError, NotEnoughResources
from cluster.run_directory import write_atomically

MANIFEST = "manifest.json"
_FULL_BYTES = 1 << 20
"""A disk with less than this left is full."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands between two iterations."""

    iteration: int
    """Iterations finished."""
    version: int
    """Policy version of the weights."""
    cursor: int
    """Index of the next training task."""
    train_seconds: float
    """Seconds spent in iterations so far."""
    credit: Mapping[str, Any]
    """State of the estimator, where it has one."""
    curriculum: Mapping[str, Any] = field(default_factory=dict)
    """State of the curriculum; empty before the first iteration, and where the levels take turns."""


def save_checkpoint(root: Path, state: RunState, write_files: Callable[[Path], None], keep: int) -> Path:
    """Write a checkpoint through `write_files(directory)`, then drop all but the newest `keep`.

    Raises:
        NotEnoughResources: the disk is full; the earlier checkpoints are untouched.
    """
    target = root / f"{state.iteration:05d}"
    temporary = root / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_files(temporary)
        (temporary / "state.json").write_text(json.dumps(asdict(state), allow_nan=False))
        write_atomically(temporary / MANIFEST, json.dumps(_digests(temporary), indent=2))
    except Exception as error:
        full = _is_disk_full(error, temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        if full:
            raise NotEnoughResources(_disk_full(target)) from error
        raise
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in root.glob(f"[0-9]*/{MANIFEST}"))


def load_checkpoint(path: Path) -> RunState:
    """Verify every file of a checkpoint and read its state.

    Raises:
        CheckpointError: a file is missing or is not what was written.
    """
    expected, found = _manifest(path), _digests(path)
    for name, digest in expected.items():
        if name not in found:
            raise _damage(path, f"file {name} is missing")
        if found[name] != digest:
            raise _damage(path, f"file {name} has digest {found[name][:12]}…, expected {digest[:12]}…")
    return RunState(**json.loads((path / "state.json").read_text()))


def _manifest(path: Path) -> dict[str, str]:
    try:
        return json.loads((path / MANIFEST).read_text())
    except ValueError as error:
        raise _damage(path, f"file {MANIFEST} is not JSON") from error


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(directory)): _digest(path) for path in files}


def _digest(path: Path) -> str:
    return blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path).hexdigest()


def _is_disk_full(error: Exception, directory: Path) -> bool:
    """Whether a write failed for want of space.

    The weights are written by native code in other processes: it reports in words of its own, or only as a file that
    came out short, so neither the type of the error nor its `errno` can tell.
    """
    told = any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
    return told or shutil.disk_usage(directory).free < _FULL_BYTES


def _disk_full(target: Path) -> str:
    return (
        f"checkpoint {target}: no space left on the disk; earlier checkpoints and all metrics are kept. "
        "Free some space and run the same command again: it resumes from the newest checkpoint"
    )


def _damage(path: Path, what: str) -> CheckpointError:
    others = [other.name for other in list_checkpoints(path.parent) if other != path]
    remedy = f"to resume from {others[-1]}" if others else "to start again"
    return CheckpointError(
        f"checkpoint {path}: {what}; it was damaged after it was written. "
        f"Delete the directory {remedy}, or restore it from a copy"
    )


def copy_tokenizer(model: Path, destination: Path) -> None:
    """Put the tokenizer of `model` beside saved weights, so that the directory opens in any tool."""
    for path in model.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens", "vocab", "merges")):
            shutil.copyfile(path, destination / path.name)
