"""Trajectories on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.storage import write_trajectories
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
        "solved": 1.0,
        "step": 0,
        "action": "call",
        "text": 'price({"item": "lámpara"})',
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


def test_an_advantage_is_missing_for_no_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_trajectories(tmp_path / "x.parquet", [scored(trajectory(step(), step()))], [[0.5]])
    assert list(tmp_path.iterdir()) == []


def test_the_toolsets_own_verdict_is_kept(tmp_path: Path) -> None:
    judged = [replace(trajectory(step()), checked=verdict) for verdict in (True, False)]
    write_trajectories(tmp_path / "x.parquet", [scored(one) for one in judged], [[0.0], [0.0]])
    assert pq.read_table(tmp_path / "x.parquet").column("checked").to_pylist() == [True, False]
