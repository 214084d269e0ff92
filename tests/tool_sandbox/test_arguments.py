"""Arguments against JSON Schema, and complaints short enough for a small model."""

from __future__ import annotations

from typing import Any

import pytest

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.ledger.tools import TOOLS
from tool_sandbox.tools import CallStatus, ToolCall


@pytest.mark.parametrize(
    ("tool", "arguments", "complaint"),
    [
        ("price", {"item": "lamp"}, None),
        ("price", {}, "price needs item"),
        ("add", {}, "add needs a and b"),
        ("price", {"item": "lamp", "city": "oslo"}, "price has no city"),
        ("price", {"thing": "lamp"}, "price needs item"),
        ("price", {"item": 3}, "item must be string"),
        ("add", {"a": "3", "b": 4}, "a must be integer"),
        ("add", {"a": True, "b": 4}, "a must be integer"),
    ],
)
def test_a_complaint_says_in_a_few_words_what_is_wrong(
    tool: str, arguments: dict[str, Any], complaint: str | None
) -> None:
    assert check_arguments(TOOLS[tool].spec, ToolCall("c", tool, arguments)) == complaint


def test_a_complaint_stays_short_whatever_the_model_wrote() -> None:
    complaint = check_arguments(TOOLS["price"].spec, ToolCall("c", "price", {"item": "x" * 5000}))
    assert complaint is not None
    assert len(complaint) == 60


def test_the_result_carries_the_complaint_as_an_observation() -> None:
    result = invalid_arguments(ToolCall("c", "price", {}), "price needs item")
    assert (result.status, result.content) == (CallStatus.INVALID_ARGUMENTS, "error: price needs item")
