"""Files of tasks: what a good file gives, and how every error of a bad one is reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tool_sandbox.shop import shop_folder, write_tasks
from tool_sandbox.errors import InvalidToolset, NoSuchTask
from tool_sandbox.jsonl import JsonlToolset
from tool_sandbox.jsonl.toolset import split_of
from tool_sandbox.registry import load_toolset, register
from tool_sandbox.tasks import GroundTruth, Split


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    with shop_folder(tmp_path) as name:
        yield name


def complaints(path: Path) -> list[str]:
    """The lines of the error, without the path."""
    with pytest.raises(InvalidToolset) as caught:
        JsonlToolset(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_a_line_becomes_a_task(tmp_path: Path, shop: str) -> None:
    line = {
        "id": "t1",
        "prompt": "Pears?",
        "toolset": f"{shop}:TOOLS",
        "tools": ["stock"],
        "answer": 2,
        "level": "easy",
    }
    toolset = JsonlToolset(write_tasks(tmp_path, line, "", line | {"id": "t2", "tools": None, "split": "val"}))
    first, second = toolset.tasks
    assert (first.id, first.prompt, first.tools, first.level) == ("t1", "Pears?", ("stock",), "easy")
    assert first.ground_truth == GroundTruth(answer="2")
    assert second.tools == ("stock", "sell", "twice")
    assert second.split is Split.VAL
    assert [spec.name for spec in toolset.specs()] == ["stock", "sell", "twice"]
    assert toolset.levels() == ("easy",)
    assert toolset.demonstrator(0.0, 0) is None


def test_scripted_turns_stand_in_place_of_the_prompt(tmp_path: Path, shop: str) -> None:
    line = {"id": "t", "turns": ["Hello", "Pears?"], "toolset": f"{shop}:PURE", "answer": "2"}
    assert JsonlToolset(write_tasks(tmp_path, line)).tasks[0].prompt == "Hello"


def test_tasks_are_numbered_in_the_order_of_the_file_and_round_again(tmp_path: Path, shop: str) -> None:
    lines = [
        {"id": f"t{index}", "prompt": "?", "toolset": f"{shop}:PURE", "answer": "1", "split": split}
        for index, split in enumerate(["train", "val", "train"])
    ]
    toolset = JsonlToolset(write_tasks(tmp_path, *lines))
    assert [toolset.sample_task(Split.TRAIN, "all", index).id for index in range(4)] == ["t0", "t2", "t0", "t2"]
    with pytest.raises(NoSuchTask, match="none of split 'test_iid' and level 'all'; there are train/all, val/all"):
        toolset.sample_task(Split.TEST_IID, "all", 0)


def test_splits_by_hash_are_stable_and_of_the_documented_size() -> None:
    splits = [split_of(f"task-{index}") for index in range(2000)]
    assert splits == [split_of(f"task-{index}") for index in range(2000)]
    shares = [splits.count(split) / 2000 for split in (Split.TRAIN, Split.VAL, Split.TEST_IID)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def test_every_error_of_form_is_reported_with_its_line(tmp_path: Path, shop: str) -> None:
    good = {"id": "good", "prompt": "?", "toolset": f"{shop}:PURE", "answer": "1"}
    path = write_tasks(
        tmp_path,
        good,
        "{not json",
        good | {"id": "b", "answers": "1"},
        "",
        good | {"id": "c", "answer": None},
        good | {"id": "d", "state": {}, "checker": f"{shop}:polite"},
        good | {"id": "e", "turns": ["?"]},
        good,
        good | {"id": "f", "toolset": "shop"},
        good | {"id": "g", "toolset": {"kind": "ftp"}},
        good | {"id": "h", "toolset": {"kind": "mcp", "command": []}},
        good | {"id": "i", "toolset": {"kind": "mcp_http", "url": "http://localhost"}, "initial_state": {}},
        "[1]",
    )
    found = complaints(path)
    assert found[0] == f"tasks {path}: 11 errors"
    assert found[1].startswith("2: is not JSON: Expecting property name")
    assert found[2] == "3: answers: Extra inputs are not permitted"
    assert found[3] == "5: the task has no ground truth; give `answer`, `state`, `calls` or `checker`"
    assert found[4] == "6: the task has the ground truths answer and state and checker; keep one of them"
    assert found[5] == "7: the task needs either `prompt` or `turns`"
    assert found[6] == "8: id 'good' is taken by line 1; give each task its own"
    assert found[7] == "9: toolset.reference: 'shop' names no object; write it as module:object"
    assert found[8] == "10: toolset: expected module:object, or an MCP server with the kind 'mcp' or 'mcp_http'"
    assert found[9].startswith("11: toolset.mcp.command: Tuple should have at least 1 item")
    assert found[10] == (
        "12: the task has a state, and an MCP server shows none; leave `initial_state` and `state` out"
    )
    assert found[11].startswith("13: the task Input should be a valid dictionary")


def test_every_error_of_meaning_is_reported_with_its_line(tmp_path: Path, shop: str) -> None:
    def line(index: int, **parts: Any) -> dict[str, Any]:
        return {"id": f"t{index}", "prompt": "?", "toolset": f"{shop}:TOOLS", "answer": "1"} | parts

    calls = [
        {"name": "sell", "arguments": {"fruit": 3}},
        {"name": "buy"},
        {"name": "twice", "arguments": {"number": 1}},
    ]
    path = write_tasks(
        tmp_path,
        line(1, tools=["stock", "steal"]),
        line(2, calls=calls, tools=["sell", "stock"]),
        line(3, initial_state={"stock": {"pear": "many"}}),
        line(4, answer=None, state={"closed": True}),
        line(5, toolset=f"{shop}:PURE", initial_state={"stock": {}}),
        line(6, answer=None, checker=f"{shop}:TOOLS"),
        line(7, answer=None, checker=f"{shop}:rude"),
        line(8, toolset="no_such_module_anywhere:TOOLS"),
        line(9, toolset=f"{shop}:NOTHING"),
        line(10, toolset=f"{shop}:BANK"),
    )
    found = complaints(path)
    assert found[0] == f"tasks {path}: 12 errors"
    assert found[1:] == [
        "1: tools: ['steal'] are not in the toolset, which has stock, sell, twice",
        "2: calls.0: fruit must be string",
        "2: calls.1: 'buy' is not offered; the task offers stock, sell",
        "2: calls.2: 'twice' is not offered; the task offers stock, sell",
        "3: initial_state: does not fit Shop: stock.pear: Input should be a valid integer, unable to parse string as "
        "an integer",
        "4: state: does not fit Shop: it has no field closed",
        "5: initial_state: its tools have no state; leave it out, or let them take one as first parameter",
        f"6: checker: '{shop}:TOOLS' is a list; expected a function of state and answer",
        f"7: checker: '{shop}:rude' cannot be imported (module '{shop}' has no attribute 'rude'); install its package, "
        "or put the module beside the tasks",
        "8: toolset: 'no_such_module_anywhere:TOOLS' cannot be imported (No module named 'no_such_module_anywhere'); "
        "install its package, or put the module beside the tasks",
        f"9: toolset: '{shop}:NOTHING' is a list; expected a list of @tool functions and programs, or a toolset",
        "10: initial_state: does not fit Bank: vault: Field required",
    ]


def test_tools_of_one_name_and_different_meaning_cannot_share_a_file(tmp_path: Path, shop: str) -> None:
    task = {"prompt": "?", "answer": "1"}
    path = write_tasks(
        tmp_path, task | {"id": "a", "toolset": f"{shop}:PURE"}, task | {"id": "b", "toolset": f"{shop}:OTHER"}
    )
    assert complaints(path)[1:] == ["2: toolset: its tool 'twice' differs from that of an earlier line; rename one"]


def test_a_module_beside_the_tasks_does_not_hide_behind_a_loaded_one(tmp_path: Path) -> None:
    (tmp_path / "decimal.py").write_text("TOOLS = []\n")
    path = write_tasks(tmp_path, {"id": "a", "prompt": "?", "toolset": "decimal:Decimal", "answer": "1"})
    assert "module 'decimal' is loaded from" in complaints(path)[1]


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidToolset, match=r"cannot be read \(No such file or directory\); name a JSONL file"):
        JsonlToolset(tmp_path / "nothing.jsonl")
    with pytest.raises(InvalidToolset, match="has no line; write one task a line"):
        JsonlToolset(write_tasks(tmp_path, "", "  "))


def test_many_errors_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    found = complaints(write_tasks(tmp_path, *(["x"] * 60)))
    assert found[0].endswith(": 60 errors")
    assert len(found) == 52
    assert found[-1] == "and 10 more"


def test_the_registry_gives_one_toolset_for_a_file_however_its_path_is_written(
    tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tasks(tmp_path, {"id": "a", "prompt": "?", "toolset": f"{shop}:PURE", "answer": "1"})
    toolset = load_toolset(f"jsonl:{path}")
    monkeypatch.chdir(tmp_path)
    assert load_toolset("jsonl:tasks.jsonl") is toolset
    assert toolset.name == f"jsonl:{path}"
    task = toolset.sample_task(split_of("a"), "all", 0)
    monkeypatch.chdir("/")
    assert load_toolset(task.toolset) is toolset


def test_a_package_gives_its_tasks_a_name_of_their_own(tmp_path: Path, shop: str) -> None:
    path = write_tasks(tmp_path, {"id": "a", "prompt": "?", "toolset": f"{shop}:PURE", "answer": "1"})
    register("shop-by-name", lambda: JsonlToolset(path, "shop-by-name"))
    assert load_toolset("shop-by-name").sample_task(split_of("a"), "all", 0).toolset == "shop-by-name"
