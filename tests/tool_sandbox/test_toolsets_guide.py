"""The guide's own examples, taken from its text: they pass the check and are solved as it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tool_sandbox.jsonl import JsonlToolset
from tool_sandbox.jsonl.session import JsonlSession
from tool_sandbox.tools import CallStatus, Progress, ToolCall

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "toolsets.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[JsonlToolset]:
    (tmp_path / "shop.py").write_text(blocks("python")[0])
    (tmp_path / "tasks.jsonl").write_text(blocks("json")[0])
    path = list(sys.path)
    yield JsonlToolset(tmp_path / "tasks.jsonl")
    sys.path[:] = path
    del sys.modules["shop"]


def sell(session: JsonlSession, fruit: str, count: int = 1) -> str:
    return session.call(ToolCall("c", "sell", {"fruit": fruit, "count": count})).result.content


def test_the_tasks_of_the_guide_are_solved_as_it_says(shop: JsonlToolset) -> None:
    count, state, turns, checked = (shop.open(task) for task in shop.tasks)
    assert [count.verdict(answer) for answer in ("7", "7.0", "8")] == [True, True, False]
    assert (sell(state, "plum", 2), state.verdict("sold")) == ("5", True)
    assert sell(turns, "pear") == "1"
    assert turns.user_turn() == "And another one."
    assert turns.call(ToolCall("c", "sell", {"fruit": "pear"})).progress == Progress(1, 0)
    assert (turns.user_turn(), turns.verdict("sold")) == (None, True)
    refused = turns.call(ToolCall("c", "sell", {"fruit": "pear"})).result
    assert (refused.status, refused.content) == (CallStatus.TOOL_ERROR, "error: ValueError: only 0 left")
    assert (checked.verdict(None), sell(checked, "fig", 3), checked.verdict(None)) == (True, "0", False)


def test_the_guides_mcp_task_has_the_right_form(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(blocks("json")[1])
    toolset = JsonlToolset(tmp_path / "tasks.jsonl")
    assert [(task.id, task.tools) for task in toolset.tasks] == [("time-1", ("convert_time",))]


def test_the_guides_entry_point_is_that_of_the_example_package() -> None:
    package = Path(__file__).parent / "packages" / "steptool_weather"
    assert blocks("toml")[0] in (package / "pyproject.toml").read_text()
