"""The supervisor's tools against hostile input: trees that no path reaches into, and messages that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_sandbox.isolation.inside.frames import BrokenFrame, FrameReader, frame, read_frame, write_frame
from tool_sandbox.isolation.inside.trees import UNCOUNTABLE, disk_of_shared, empty


def dig(folder: Path, depth: int) -> None:
    """A tree deeper than a path may be long, as code inside makes it: step by step."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_tree_deeper_than_any_path_is_removed_and_counts_as_too_much(tmp_path: Path) -> None:
    dig(tmp_path, 2000)
    assert disk_of_shared(str(tmp_path)) == (UNCOUNTABLE, UNCOUNTABLE)
    assert empty(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_closed_folders_links_and_odd_names_are_removed_and_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = tmp_path / "folder"
    (folder / "shut" / "in").mkdir(parents=True)
    (folder / "shut" / "in" / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "shut" / "link").symlink_to(outside / "precious")
    (folder / "-rf \n").write_text("x")
    (folder / "shut").chmod(0)
    assert empty(str(folder))
    assert (outside / "precious").read_text() == "x"


def test_files_and_their_blocks_are_counted_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(8192))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").symlink_to("/usr")
    files, size = disk_of_shared(str(tmp_path))
    assert (files, 8192 <= size < 16384) == (3, True)


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text())), st.integers(1, 7))
def test_messages_arrive_whole_however_they_are_cut(messages: list[dict[str, object]], size: int) -> None:
    sent = b"".join(frame(message) for message in messages)
    reader = FrameReader(1 << 20)
    got: list[object] = []
    for start in range(0, len(sent), size):
        reader.feed(sent[start : start + size])
        while (one := reader.next()) is not None:
            got.append(one)
    assert got == messages


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03{a}", b"\x00\x00\x00\x01\xff"])
def test_what_is_no_message_is_told_apart_from_one_that_is_not_complete(sent: bytes) -> None:
    reader = FrameReader(1000)
    assert reader.next() is None
    reader.feed(sent)
    with pytest.raises(BrokenFrame):
        reader.next()


def test_a_pipe_that_ends_in_the_middle_of_a_message_gives_none() -> None:
    read, write = os.pipe()
    write_frame(write, {"kind": "ready"})
    os.write(write, frame("cut short")[:7])
    os.close(write)
    assert read_frame(read, 1000) == {"kind": "ready"}
    assert read_frame(read, 1000) is None
    os.close(read)
