"""Trajectories on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.storage import read_trajectories, write_trajectories
from actors.trajectory import ParseFailure, VersionSpan
from tests.actors.fakes import scored, step, trajectory
from tool_sandbox.tools import CallStatus, Progress, ToolCall, ToolResult

CALLED = step(
    (4, 5, 6),
    logprobs=(-0.5, -0.25, -1.0),
    versions=(VersionSpan(1, 0, 1), VersionSpan(2, 1, 3)),
    action=ToolCall("c", "price", {"item": "lámpara"}),
    result=ToolResult("c", CallStatus.OK, "42"),
    progress=Progress(2, 1),
)
FAILED = step(
    action=ParseFailure("<tool_call>", "malformed tool call"),
    result=ToolResult("c", CallStatus.INVALID_ARGUMENTS, "error: malformed tool call"),
    progress=Progress(1, 1),
)


def test_nothing_that_trained_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "00001.parquet"
    one = scored(trajectory(CALLED, FAILED, step()), 0.5, None, 1.0)
    write_trajectories(path, [one], [[0.75, None, -0.25]])
    first, second, last = pq.read_table(path).to_pylist()
    assert first == {
        "trajectory": "t-1",
        "group": "g-1",
        "task": "ledger-1",
        "level": "L0",
        "prompt": "How much?",
        "stop": "answered",
        "checked": None,
        "final_state_hash": None,
        "task_facts": json.dumps(
            {
                "toolset": "ledger",
                "tools": [],
                "split": "train",
                "ground_truth": {"answer": "7", "state_hash": None, "minimum_calls": 1},
                "payload": {},
            }
        ),
        "solved": 1.0,
        "step": 0,
        "action": "call",
        "text": 'price({"item": "lámpara"})',
        "action_facts": json.dumps({"id": "c", "name": "price", "arguments": {"item": "lámpara"}, "result_of": "c"}),
        "status": "ok",
        "observation": "42",
        "remaining_before": 2,
        "remaining_after": 1,
        "reward": 0.5,
        "signals": '{"success": 0.5}',
        "advantage": 0.75,
        "prompt_ids": [1, 2, 3],
        "action_ids": [4, 5, 6],
        "logprobs": [-0.5, -0.25, -1.0],
        "versions": "[[1, 0, 1], [2, 1, 3]]",
        "reward_version": "v1",
    }
    assert (second["action"], second["text"], second["reward"], second["advantage"]) == (
        "parse_failure",
        "<tool_call>",
        None,
        None,
    )
    assert (last["action"], last["text"], last["status"], last["remaining_after"]) == ("answer", "7", None, None)
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "00001.parquet"
    written = [
        scored(trajectory(CALLED, FAILED, step()), 0.1, None, 1.0),
        scored(replace(trajectory(step()), id="t-2", final_state_hash="abc", checked=False), 0.3),
    ]
    write_trajectories(path, written, [[0.7, None, -0.1], [0.0]])
    read = read_trajectories(path)
    assert [one.scored for one in read] == written
    assert [one.advantages for one in read] == [(0.7, None, -0.1), (0.0,)]


def test_a_judges_rate_reads_back_to_the_last_bit(tmp_path: Path) -> None:
    """A third does not fit into single precision; credit by outcome would differ in the seventh digit."""
    path = tmp_path / "00001.parquet"
    one = scored(trajectory(step()), 1.0)
    write_trajectories(path, [replace(one, reward=replace(one.reward, solved=1 / 3))], [[0.5]])
    [stored] = read_trajectories(path)
    assert stored.scored.reward.solved == 1 / 3


def test_a_file_of_another_version_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_trajectories(path, [scored(trajectory(step()), 1.0)], [[0.0]])
    pq.write_table(pq.read_table(path).drop_columns(["text"]), path)
    with pytest.raises(ValueError, match=r"the columns \['text'\] are missing or unknown"):
        read_trajectories(path)


def test_an_advantage_is_missing_for_no_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_trajectories(tmp_path / "x.parquet", [scored(trajectory(step(), step()))], [[0.5]])
    assert list(tmp_path.iterdir()) == []


def test_the_toolsets_own_verdict_is_kept(tmp_path: Path) -> None:
    judged = [replace(trajectory(step()), checked=verdict) for verdict in (True, False)]
    write_trajectories(tmp_path / "x.parquet", [scored(one) for one in judged], [[0.0], [0.0]])
    assert pq.read_table(tmp_path / "x.parquet").column("checked").to_pylist() == [True, False]
