from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from cluster.checkpoint import (
    RunState,
    begin_checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_sound,
    remove_scraps,
    retained,
    set_aside_after,
)
from cluster.checkpoint_writer import CheckpointWriter
from cluster.config import KeepConfig, KeepMilestones, KeepNewest
from cluster.errors import CheckpointError, NotEnoughResources

TWO = KeepNewest(count=2)


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


def save(root: Path, saved: RunState, write: Callable[[Path], None] = write_weights, keep: KeepConfig = TWO) -> Path:
    """Begin and complete a checkpoint; `write` does its work while the loop would go on."""

    def begin(directory: Path) -> Callable[[], dict[str, str]]:
        def wait() -> dict[str, str]:
            write(directory)
            return {}

        return wait

    return begin_checkpoint(root, saved, begin, keep)()


def flip_a_bit(path: Path, at: int = 350) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_gives_back_the_state_that_was_saved(tmp_path: Path) -> None:
    path = save(tmp_path, state(5))
    assert path.name == "00005"
    assert load_checkpoint(path) == state(5)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (0, 5, 10, 15):
        save(tmp_path, state(iteration))
    assert names(tmp_path) == ["00010", "00015"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00010", "00015"]


def test_saving_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, state(5))
    save(tmp_path, state(5), lambda directory: (directory / "other").touch())
    assert names(tmp_path / "00005") == ["manifest.json", "other", "state.json"]


def test_what_a_crash_left_half_written_is_not_a_checkpoint_and_does_not_hinder_the_next(tmp_path: Path) -> None:
    save(tmp_path, state(5))
    write_weights(tmp_path / ".00010.tmp")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00005"]
    save(tmp_path, state(10), lambda directory: (directory / "other").touch())
    assert names(tmp_path / "00010") == ["manifest.json", "other", "state.json"]


@pytest.mark.parametrize("writer", [fill_the_disk, fill_the_disk_in_an_actor])
def test_a_full_disk_keeps_the_earlier_checkpoints_and_leaves_no_scraps(tmp_path: Path, writer) -> None:
    for iteration in (5, 10):
        save(tmp_path, state(iteration))
    with pytest.raises(NotEnoughResources, match=r"00015: no space left on the disk; earlier checkpoints .* are kept"):
        save(tmp_path, state(15), writer)
    assert names(tmp_path) == ["00005", "00010"]
    assert load_checkpoint(tmp_path / "00010") == state(10)


def test_a_file_that_came_out_short_on_a_full_disk_is_told_as_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come_out_short(directory: Path) -> None:
        raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        save(tmp_path, state(5), come_out_short)
    nothing_left = type("Usage", (), {"free": 4096})
    monkeypatch.setattr("cluster.checkpoint.shutil.disk_usage", lambda path: nothing_left)
    with pytest.raises(NotEnoughResources, match="no space left"):
        save(tmp_path, state(5), come_out_short)
    assert names(tmp_path) == []


def test_an_error_that_is_not_about_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    def refuse(directory: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        save(tmp_path, state(5), refuse)
    assert names(tmp_path) == []


def test_a_state_that_json_cannot_hold_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, state(5))
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path, RunState(5, 1, 0, float("nan"), {}))
    assert load_checkpoint(tmp_path / "00005") == state(5)


def test_one_flipped_bit_names_the_damaged_file(tmp_path: Path) -> None:
    save(tmp_path, state(5))
    path = save(tmp_path, state(10))
    weights = path / "learner" / "model" / "model.safetensors"
    flip_a_bit(weights)
    message = r"00010: file learner/model/model\.safetensors has digest .*, expected .*damaged after it was written"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["state.json", "learner/empty.txt"])
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, state(5))
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"00005: file {name} is missing, expected digest"):
        load_checkpoint(path)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, state(5))
    (path / "manifest.json").write_text('{"state.json": "1f0')
    with pytest.raises(CheckpointError, match=r"file manifest\.json is not JSON"):
        load_checkpoint(path)


def test_a_damaged_checkpoint_is_passed_over_and_the_warning_names_file_and_both_digests(tmp_path: Path) -> None:
    for iteration in (5, 10):
        save(tmp_path, state(iteration))
    flip_a_bit(tmp_path / "00010" / "learner" / "model" / "model.safetensors")
    warnings: list[str] = []
    assert newest_sound(tmp_path, warnings.append) == (tmp_path / "00005", state(5))
    [warning] = warnings
    written = json.loads((tmp_path / "00005" / "manifest.json").read_text())["learner/model/model.safetensors"]
    assert "model.safetensors has digest" in warning
    assert f"expected {written[:12]}…" in warning
    assert warning.endswith("using the one before it")


def test_a_damaged_checkpoint_that_was_passed_over_is_kept_aside_and_counts_no_more(tmp_path: Path) -> None:
    for iteration in (5, 10):
        save(tmp_path, state(iteration))
    set_aside_after(tmp_path, 5)
    assert names(tmp_path) == ["00005", "damaged-00010"]
    save(tmp_path, state(7))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00005", "00007"]


def test_where_every_checkpoint_is_damaged_nothing_is_resumed(tmp_path: Path) -> None:
    assert newest_sound(tmp_path, pytest.fail) is None
    for iteration in (5, 10):
        save(tmp_path, state(iteration))
        (tmp_path / f"{iteration:05d}" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"all 2 are damaged \(newest 00010\)"):
        newest_sound(tmp_path, lambda _: None)


def test_a_checkpoint_before_an_iteration_is_the_newest_such_one(tmp_path: Path) -> None:
    for iteration in (5, 10):
        save(tmp_path, state(iteration))
    found = [newest_sound(tmp_path, pytest.fail, before=iteration) for iteration in (11, 10, 5)]
    assert [one and one[0].name for one in found] == ["00010", "00005", None]


def test_all_of_a_checkpoint_is_on_the_disk_before_the_one_before_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save(tmp_path, state(5))
    settled: list[str] = []

    def settle(descriptor: int) -> None:
        assert before.exists()
        settled.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", settle)
    path = save(tmp_path, state(10), keep=KeepNewest(count=1))
    assert not before.exists()
    assert {file.name for file in path.rglob("*")} | {".00010.tmp"} <= set(settled)
    # The directory that lists it comes last, once it has its name.
    assert settled[-1] == tmp_path.name


def test_milestones_stay_beside_the_newest(tmp_path: Path) -> None:
    saved = [0, 5, 10, 15, 20, 25]
    assert retained(saved, KeepNewest(count=2)) == {20, 25}
    assert retained(saved, KeepMilestones(count=1, interval=10)) == {0, 10, 20, 25}
    for iteration in (0, 5, 10, 15):
        save(tmp_path, state(iteration), keep=KeepMilestones(count=1, interval=10))
    assert names(tmp_path) == ["00000", "00010", "00015"]


def test_what_a_killed_run_had_begun_to_write_is_removed_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, state(5))
    write_weights(tmp_path / ".00010.tmp")
    remove_scraps(tmp_path)
    assert names(tmp_path) == ["00005"]


def test_digests_that_the_writer_knows_are_believed(tmp_path: Path) -> None:
    """They are of the bytes that were to be written: what the disk made of them is found out by the reader."""
    path = save(tmp_path, state(5))
    known = json.loads((path / "manifest.json").read_text()) | {"learner/empty.txt": "0" * 64}

    def begin(directory: Path) -> Callable[[], dict[str, str]]:
        write_weights(directory)
        return lambda: known

    path = begin_checkpoint(tmp_path, state(6), begin, TWO)()
    with pytest.raises(CheckpointError, match=r"empty\.txt has digest .*, expected 000000000000…"):
        load_checkpoint(path)


def begun(root: Path, iteration: int, released: Event, log: list[str]) -> Callable[[], Callable[[], Path]]:
    """A checkpoint whose files are complete when `released` is set."""

    def begin(directory: Path) -> Callable[[], dict[str, str]]:
        log.append(f"copied {iteration}")

        def wait() -> dict[str, str]:
            assert released.wait(30.0)
            write_weights(directory)
            return {}

        return wait

    return lambda: begin_checkpoint(root, state(iteration), begin, TWO)


def test_the_loop_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    writer, released, log = CheckpointWriter(30.0), Event(), []
    writer.start(begun(tmp_path, 5, released, log))
    writer.check()
    assert (log, list_checkpoints(tmp_path)) == (["copied 5"], [])
    released.set()
    writer.finish()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00005"]


def test_a_second_checkpoint_waits_for_the_first_and_not_longer_than_the_deadline(tmp_path: Path) -> None:
    writer, released, log = CheckpointWriter(0.05), Event(), []
    writer.start(begun(tmp_path, 5, released, log))
    with pytest.raises(CheckpointError, match=r"still being written after 0 s; look at the disk"):
        writer.start(begun(tmp_path, 10, released, log))
    assert log == ["copied 5"]
    released.set()
    patient, other = CheckpointWriter(30.0), Event()
    other.set()
    for iteration in (15, 20):
        patient.start(begun(tmp_path, iteration, other, log))
    patient.finish()
    assert log == ["copied 5", "copied 15", "copied 20"]
    assert {"00015", "00020"} <= {path.name for path in list_checkpoints(tmp_path)}


def test_what_went_wrong_in_the_background_is_raised_in_the_loop_once(tmp_path: Path) -> None:
    writer = CheckpointWriter(30.0)

    def begin(directory: Path) -> Callable[[], dict[str, str]]:
        return lambda: (fill_the_disk(directory), {})[1]

    writer.start(lambda: begin_checkpoint(tmp_path, state(5), begin, TWO))
    with pytest.raises(NotEnoughResources, match="no space left"):
        writer.finish()
    writer.check()
    assert names(tmp_path) == []
