from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from cluster.checkpoint import RunState, list_checkpoints, load_checkpoint, save_checkpoint
from cluster.errors import CheckpointError, NotEnoughResources


def state(iteration: int) -> RunState:
    return RunState(iteration, iteration + 1, 6 * iteration, 12.5, {"cells": [[1, None, 0.5, 2.0]]})


def write_weights(directory: Path) -> None:
    (directory / "learner" / "model").mkdir(parents=True)
    (directory / "learner" / "model" / "model.safetensors").write_bytes(b"weights" * 100)
    (directory / "learner" / "empty.txt").touch()


def fill_the_disk(directory: Path) -> None:
    """Writes a part, then meets the kernel's own "no space left"."""
    write_weights(directory)
    Path("/dev/full").write_bytes(b"more")


def fill_the_disk_in_an_actor(directory: Path) -> None:
    """As Ray hands the error of a rank to the driver: of the right type, and without its errno."""
    write_weights(directory)
    cause = OSError(errno.ENOSPC, "No space left on device")
    raised: Any = RayTaskError("save", f"OSError: {cause}", cause).as_instanceof_cause()
    assert raised.errno is None
    raise raised


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_gives_back_the_state_that_was_saved(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    assert path.name == "00005"
    assert load_checkpoint(path) == state(5)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (0, 5, 10, 15):
        save_checkpoint(tmp_path, state(iteration), write_weights, keep=2)
    assert names(tmp_path) == ["00010", "00015"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00010", "00015"]


def test_saving_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    save_checkpoint(tmp_path, state(5), lambda directory: (directory / "other").touch(), keep=2)
    assert names(tmp_path / "00005") == ["manifest.json", "other", "state.json"]


def test_what_a_crash_left_half_written_is_not_a_checkpoint_and_does_not_hinder_the_next(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    write_weights(tmp_path / ".00010.tmp")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00005"]
    save_checkpoint(tmp_path, state(10), lambda directory: (directory / "other").touch(), keep=2)
    assert names(tmp_path / "00010") == ["manifest.json", "other", "state.json"]


@pytest.mark.parametrize("writer", [fill_the_disk, fill_the_disk_in_an_actor])
def test_a_full_disk_keeps_the_earlier_checkpoints_and_leaves_no_scraps(tmp_path: Path, writer) -> None:
    for iteration in (5, 10):
        save_checkpoint(tmp_path, state(iteration), write_weights, keep=2)
    with pytest.raises(NotEnoughResources, match=r"00015: no space left on the disk; earlier checkpoints .* are kept"):
        save_checkpoint(tmp_path, state(15), writer, keep=2)
    assert names(tmp_path) == ["00005", "00010"]
    assert load_checkpoint(tmp_path / "00010") == state(10)


def test_a_file_that_came_out_short_on_a_full_disk_is_told_as_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come_out_short(directory: Path) -> None:
        raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        save_checkpoint(tmp_path, state(5), come_out_short, keep=2)
    nothing_left = type("Usage", (), {"free": 4096})
    monkeypatch.setattr("cluster.checkpoint.shutil.disk_usage", lambda path: nothing_left)
    with pytest.raises(NotEnoughResources, match="no space left"):
        save_checkpoint(tmp_path, state(5), come_out_short, keep=2)
    assert names(tmp_path) == []


def test_an_error_that_is_not_about_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    def refuse(directory: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        save_checkpoint(tmp_path, state(5), refuse, keep=2)
    assert names(tmp_path) == []


def test_a_state_that_json_cannot_hold_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(tmp_path, RunState(5, 1, 0, float("nan"), {}), write_weights, keep=2)
    assert load_checkpoint(tmp_path / "00005") == state(5)


def test_one_flipped_bit_names_the_damaged_file_and_the_checkpoint_to_go_back_to(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    path = save_checkpoint(tmp_path, state(10), write_weights, keep=2)
    weights = path / "learner" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[350] ^= 1
    weights.write_bytes(content)
    message = r"00010: file learner/model/model\.safetensors has digest .*, expected .*to resume from 00005"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["state.json", "learner/empty.txt"])
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"00005: file {name} is missing; .* to start again"):
        load_checkpoint(path)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state(5), write_weights, keep=2)
    (path / "manifest.json").write_text('{"state.json": "1f0')
    with pytest.raises(CheckpointError, match=r"file manifest\.json is not JSON"):
        load_checkpoint(path)
