"""`steptool tasks check`: what a user sees of a good file and of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from tests.tool_sandbox.shop import shop_folder, write_tasks


def run(path: Path) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["tasks", "check", str(path)])
    return done.exit_code, done.stdout, done.stderr


def test_a_good_file_is_counted_and_named(tmp_path: Path) -> None:
    with shop_folder(tmp_path) as shop:
        line = {"prompt": "?", "toolset": f"{shop}:TOOLS", "split": "train"}
        calls = [{"name": "twice", "arguments": {"number": 4}}]
        path = write_tasks(
            tmp_path,
            line | {"id": "a", "answer": "1", "calls": calls},
            line | {"id": "b", "answer": "1", "split": "val"},
            line | {"id": "c", "state": {}, "level": "hard", "tools": ["sell"]},
            line | {"id": "d", "checker": f"{shop}:polite", "level": "hard", "tools": ["sell", "twice"]},
            line | {"id": "e", "calls": calls, "level": "hard"},
        )
        code, out, _ = run(path)
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in out.splitlines() if row.startswith("│")]
    assert code == 0
    assert rows == [["all", "1", "1", "3", "2 answer"], ["hard", "3", "0", "3", "1 state, 1 checker, 1 calls"]]
    assert f"--set task.suite=jsonl:{path} --set 'task.levels=[all,hard]'" in out


def test_a_bad_file_shows_its_errors_by_line_and_ends_with_code_2(tmp_path: Path) -> None:
    path = write_tasks(tmp_path, "{", {"id": "a"})
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert f"{path}:1: is not JSON" in err
    assert f"{path}:2: toolset: " in err


@pytest.mark.parametrize("name", ["nothing.jsonl", "."])
def test_what_cannot_be_read_is_the_users_error(tmp_path: Path, name: str) -> None:
    code, _, err = run(tmp_path / name)
    assert code == 2
    assert "cannot be read" in err
