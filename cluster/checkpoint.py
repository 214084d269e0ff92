"""Checkpoints: all that a run needs to continue with the identical next batch. Owns their layout and their integrity.

A checkpoint is a directory named by its iteration. It is written beside its final place and renamed when whole, with a
manifest of digests written last: what has a manifest is complete, and what does not match it is not used. All of it is
on the disk before an earlier one goes. The learner writes its part while the loop goes on; `checkpoint_writer` waits.

```
00005/learner/model/     Hugging Face safetensors, config, tokenizer: opens in any tool
      learner/state-*    master weights and Adam moments, one file a rank; readable by any number of ranks
      learner/...        what else the learner keeps
      state.json         iteration, policy version, data cursor, elapsed seconds, critic table, curriculum
      manifest.json      BLAKE3 digest of every file
damaged-00005/           what did not match its manifest when a run was to continue from it
```
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import blake3

from cluster.config import KeepConfig, KeepMilestones, KeepNewest
from cluster.errors import CheckpointError, NotEnoughResources
from cluster.run_directory import write_atomically

MANIFEST = "manifest.json"

WaitForFiles = Callable[[], Mapping[str, str]]
"""Returns when all files are written, with the digests that are known by then, by path relative to the checkpoint."""
BeginWriting = Callable[[Path], WaitForFiles]
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


def begin_checkpoint(root: Path, state: RunState, write_files: BeginWriting, keep: KeepConfig) -> Callable[[], Path]:
    """Begin a checkpoint: `write_files(directory)` copies what is to be written, and gives a function that waits.

    What this returns completes the checkpoint, drops the earlier ones that `keep` does not name, and gives its path; it
    may be called in another thread. Both raise `NotEnoughResources` where the disk is full; the earlier checkpoints are
    untouched then.
    """
    target = root / f"{state.iteration:05d}"
    temporary = root / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with _whole_or_nothing(temporary, target):
        wait_for_files = write_files(temporary)

    def complete() -> Path:
        with _whole_or_nothing(temporary, target):
            known = wait_for_files()
            (temporary / "state.json").write_text(json.dumps(asdict(state), allow_nan=False))
            write_atomically(temporary / MANIFEST, json.dumps(_digests(temporary, known), indent=2))
            _settle(temporary, *temporary.rglob("*"))
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _settle(root)
        _drop_others(root, keep)
        return target

    return complete


@contextmanager
def _whole_or_nothing(temporary: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        full = _is_disk_full(error, temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        if full:
            raise NotEnoughResources(_disk_full(target)) from error
        raise


def retained(iterations: Sequence[int], keep: KeepConfig) -> set[int]:
    """Which of the checkpoints at these iterations are kept."""
    newest = set(sorted(iterations)[-keep.count :])
    match keep:
        case KeepNewest():
            return newest
        case KeepMilestones():
            return newest | {iteration for iteration in iterations if iteration % keep.interval == 0}


def _settle(*paths: Path) -> None:
    """Return when these files, and what these directories list, would survive a loss of power."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _drop_others(root: Path, keep: KeepConfig) -> None:
    saved = {int(path.name): path for path in list_checkpoints(root)}
    for iteration in saved.keys() - retained(list(saved), keep):
        shutil.rmtree(saved[iteration])


def remove_scraps(root: Path) -> None:
    """Delete what a run that was killed had begun to write."""
    for path in root.glob(".[0-9]*.tmp"):
        shutil.rmtree(path)


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in root.glob(f"[0-9]*/{MANIFEST}"))


def load_checkpoint(path: Path) -> RunState:
    """Verify every file of a checkpoint and read its state.

    Raises:
        CheckpointError: a file is missing or is not what was written.
    """
    expected, found = _manifest(path), _digests(path, {})
    for name, digest in expected.items():
        if name not in found:
            raise CheckpointError(f"checkpoint {path}: file {name} is missing, expected digest {digest[:12]}…")
        if found[name] != digest:
            message = f"file {name} has digest {found[name][:12]}…, expected {digest[:12]}…"
            raise CheckpointError(f"checkpoint {path}: {message}; it was damaged after it was written")
    return RunState(**json.loads((path / "state.json").read_text()))


def newest_sound(root: Path, warn: Callable[[str], None], before: int | None = None) -> tuple[Path, RunState] | None:
    """The newest checkpoint whose files are what was written, and its state; None where there is no checkpoint at all.

    `before`: of an earlier iteration than this. `warn` is told of each damaged one that was passed over.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    saved = [path for path in list_checkpoints(root) if before is None or int(path.name) < before]
    for path in reversed(saved):
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            warn(f"{error}; using the one before it")
    if saved:
        raise CheckpointError(
            f"checkpoints {root}: all {len(saved)} are damaged (newest {saved[-1].name}); restore one from a copy, or "
            "start again in another run directory"
        )
    return None


def set_aside_after(root: Path, iteration: int) -> None:
    """Rename the checkpoints of later iterations, which were passed over: they must not count as the newest again."""
    for path in list_checkpoints(root):
        if int(path.name) > iteration:
            aside = root / f"damaged-{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _manifest(path: Path) -> dict[str, str]:
    try:
        return json.loads((path / MANIFEST).read_text())
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: file {MANIFEST} is not JSON; it was damaged") from error


def _digests(directory: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Digest of every file by its relative path; read from the disk where it is not known."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    named = {str(path.relative_to(directory)): path for path in files}
    return {name: known.get(name) or _digest(path) for name, path in named.items()}


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


def copy_tokenizer(model: Path, destination: Path) -> None:
    """Put the tokenizer of `model` beside saved weights, so that the directory opens in any tool."""
    for path in model.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens", "vocab", "merges")):
            shutil.copyfile(path, destination / path.name)
