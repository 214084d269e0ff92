"""A keys file that changes while a service runs."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.tool_sandbox.clocks import Clock
from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.key_file import WatchedKeys
from tool_sandbox.http.keys import ApiKeys, digest

ANNA, BERT = f"anna:{digest('secret-a')}", f"bert:{digest('secret-b')}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(ANNA)
    return path


@pytest.fixture
def watched(file: Path, clock: Clock) -> WatchedKeys:
    return WatchedKeys(ApiKeys({}, file), clock)


def names(watched: WatchedKeys) -> list[str]:
    return sorted(watched.now().entries)


def replace(file: Path, text: str) -> None:
    """Put another file in the place of this one, as editors and mounted secrets do."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


def test_an_added_key_works_and_a_removed_one_stops_a_second_later(file, watched, clock):
    assert watched.now().who("Bearer secret-a") == "anna"
    replace(file, BERT)
    clock.wait(0.999)
    assert names(watched) == ["anna"]
    clock.wait(0.001)
    assert watched.now().who("Bearer secret-a") is None
    assert watched.now().who("Bearer secret-b") == "bert"


def test_the_file_is_looked_at_once_a_second_at_most(file, watched, clock):
    clock.wait(1)
    assert names(watched) == ["anna"]
    replace(file, BERT)
    clock.wait(0.5)
    assert names(watched) == ["anna"]
    clock.wait(0.5)
    assert names(watched) == ["bert"]


def test_a_file_that_is_written_in_place_is_read_again(file, watched, clock):
    before = file.stat()
    file.write_text(BERT)
    # As a tool does that keeps times: same inode, size and date of its content. The kernel's clock may be slow to tick.
    while file.stat().st_ctime_ns == before.st_ctime_ns or file.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_size) == (before.st_ino, before.st_size)
    clock.wait(1)
    assert names(watched) == ["bert"]


def test_a_link_that_is_turned_to_another_folder_is_followed(tmp_path, clock):
    """How Kubernetes changes a mounted secret."""
    for version, text in (("one", ANNA), ("two", BERT)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(text)
    data = tmp_path / "data"
    data.symlink_to("one")
    (tmp_path / "keys").symlink_to("data/keys")
    watched = WatchedKeys(ApiKeys({}, tmp_path / "keys"), clock)
    turned = tmp_path / "turned"
    turned.symlink_to("two")
    turned.replace(data)
    clock.wait(1)
    assert names(watched) == ["bert"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{BERT}\ncleo:hush-hush", "API key 2 of 2"),
        (f"{BERT}\n{BERT}", "its name is taken"),
        (f"{BERT}:{digest('hush')}", "after the digits"),
        ("", "is empty"),
        ("# hush", "is empty"),
        (None, "No such file"),
    ],
)
def test_a_broken_file_keeps_the_keys_of_before_and_is_told_once_without_what_is_in_it(
    file, watched, clock, caplog, text, reason
):
    if text is None:
        file.unlink()
    else:
        replace(file, text)
    for _ in range(3):
        clock.wait(1)
        assert names(watched) == ["anna"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert reason in record.getMessage()
    assert record.getMessage().endswith("the 1 keys of before stay in use")
    secrets = ("hush", "secret", digest("hush"), *ANNA.split(":"), *BERT.split(":"))
    assert not [part for part in secrets if part in caplog.text]


def test_a_file_that_is_mended_is_used(file, watched, clock, caplog):
    content = file.read_bytes()
    replace(file, "broken")
    clock.wait(1)
    assert names(watched) == ["anna"]
    replace(file, f"{content.decode()},{BERT}")
    clock.wait(1)
    assert names(watched) == ["anna", "bert"]
    assert len(caplog.records) == 1


def test_a_file_that_takes_the_place_of_a_folder_is_found(file, watched, clock):
    file.unlink()
    file.mkdir()
    clock.wait(1)
    assert names(watched) == ["anna"]
    shutil.rmtree(file)
    file.write_text(BERT)
    clock.wait(1)
    assert names(watched) == ["bert"]


def test_keys_of_the_service_s_own_stay_beside_those_of_the_file(file, clock, caplog):
    own, secret = ApiKeys.issue("trainer")
    watched = WatchedKeys(own.joined(ApiKeys({}, file)), clock)
    assert names(watched) == ["anna", "trainer"]
    replace(file, BERT)
    clock.wait(1)
    assert names(watched) == ["bert", "trainer"]
    # Whoever may write the file cannot take the trainer's place.
    replace(file, f"trainer:{digest('mine')}")
    clock.wait(1)
    assert watched.now().who(f"Bearer {secret}") == "trainer"
    assert watched.now().who("Bearer mine") is None
    assert "name yours otherwise" in caplog.text


def test_a_process_does_not_start_with_a_file_that_it_cannot_use(tmp_path, clock):
    with pytest.raises(InvalidKeys, match="No such file"):
        WatchedKeys(ApiKeys({}, tmp_path / "keys"), clock)
