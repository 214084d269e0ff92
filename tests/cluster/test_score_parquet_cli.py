"""`steptool score IN OUT.parquet` writes a table, and goes on with one."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from reward_service.client import RewardClient
from reward_service.parquet_results import lines_beside
from reward_service.result_file import InvalidFile
from tests.reward_service.builders import call_step, trajectory

NOWHERE = [call_step(0) | {"progress": None}, {"index": 1, "answer": "42"}]


def source(path: Path, count: int) -> Path:
    rows = [trajectory(f"t-{number}") for number in range(count)]
    rows[1] = trajectory("nowhere", steps=NOWHERE)
    file = path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def score(source: Path, out: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["score", str(source), str(out)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def cut_off_after_two(out: Path) -> None:
    with lines_beside(out) as lines:
        lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:2]))
        raise KeyboardInterrupt


def lose_the_first(out: Path) -> None:
    """As a run leaves its table whose scorer was down for one trajectory."""
    with lines_beside(out) as lines:
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
        error = {"kind": "infrastructure", "message": "judge: gone"}
        rows[0] = rows[1] | {"id": rows[0]["id"], "error": rows[1]["error"] | error}
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_results_are_rows_whose_steps_hold_what_a_line_of_json_holds(tmp_path):
    given = source(tmp_path, 3)
    score(given, tmp_path / "out.jsonl")
    assert score(given, tmp_path / "out.parquet")["trajectories"] == 3
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["t-0", "nowhere", "t-2"]
    # One useful call: 0.6 − 0.1; then the right answer: 1. The second has no distance.
    assert table["total"].to_pylist() == [1.5, None, 1.5]
    assert table["error"].to_pylist()[1]["kind"] == "data"
    rows = table.to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [step["reward"] for step in rows[0]["steps"]] == [step["reward"] for step in lines[0]["steps"]]
    assert [dict(step["signals"]) for step in rows[0]["steps"]] == [step["signals"] for step in lines[0]["steps"]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.parquet"]


def test_a_table_goes_on_where_it_stopped_and_from_the_lines_of_a_run_that_was_cut_off(tmp_path):
    out = tmp_path / "out.parquet"
    score(source(tmp_path, 3), out)
    assert score(source(tmp_path, 5), out)["resumed"] == 3
    with pytest.raises(KeyboardInterrupt):
        cut_off_after_two(out)
    assert pq.read_table(out).num_rows == 5
    assert score(source(tmp_path, 5), out)["resumed"] == 2
    assert pq.read_table(out)["id"].to_pylist() == ["t-0", "nowhere", "t-2", "t-3", "t-4"]


def test_a_table_keeps_its_rows_while_what_it_lost_cannot_be_scored(tmp_path, monkeypatch):
    given, out = source(tmp_path, 5), tmp_path / "out.parquet"
    score(given, out)
    lose_the_first(out)
    before = out.read_bytes()
    monkeypatch.setattr("cluster.score_files.RewardClient", functools.partial(RewardClient, retries=0))
    refused = CliRunner().invoke(app, ["score", str(given), str(out), "--url", "http://127.0.0.1:1"])
    assert (refused.exit_code, out.read_bytes() == before) == (75, True)
    assert score(given, out)["resumed"] == 4
    assert pq.read_table(out)["id"].to_pylist() == ["t-0", "nowhere", "t-2", "t-3", "t-4"]
    assert pq.read_table(out)["total"].to_pylist() == [1.5, None, 1.5, 1.5, 1.5]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


@pytest.mark.parametrize("kind", ["text", "table"])
def test_a_file_that_is_no_table_of_results_is_refused_and_stays(tmp_path, kind):
    out = tmp_path / "out.parquet"
    if kind == "text":
        out.write_text('{"reward_version": "1"}\n')
    else:
        pq.write_table(pa.table({"id": ["t-0"]}), out)
    before = out.read_bytes()
    with pytest.raises(InvalidFile, match="choose another file"), lines_beside(out):
        pass
    assert CliRunner().invoke(app, ["score", str(source(tmp_path, 3)), str(out)]).exit_code != 0
    assert out.read_bytes() == before
