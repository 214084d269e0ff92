"""When a task counts as solved."""

from __future__ import annotations

import pytest

from tool_sandbox.tasks import GroundTruth
from tool_sandbox.verdict import solved


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("42", "42"),
        ("42", " 42.0\n"),
        ("42.50", "42.5."),
        ("-3", "-3.0"),
        ("007", "7"),
        ("Lena", "lena."),
        ("STRASSE", "Straße"),
    ],
)
def test_spelling_does_not_count(expected, answer):
    assert solved(GroundTruth(answer=expected), answer, None) is True


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("42", "43"),
        ("42", "the answer is 42"),
        ("42", ""),
        ("42", None),
        ("1000", "1e3"),
        ("1000", "1,000"),
        ("lena", "len a"),
    ],
)
def test_another_answer_is_wrong(expected, answer):
    assert solved(GroundTruth(answer=expected), answer, None) is False


def test_large_numbers_are_compared_exactly():
    assert solved(GroundTruth(answer="9007199254740993"), "9007199254740992", None) is False


def test_a_target_state_must_be_reached_whatever_is_said():
    truth = GroundTruth(state_hash="abc")
    assert solved(truth, None, "abc") is True
    assert solved(truth, "done", "abd") is False


def test_nobody_knows_without_ground_truth_or_without_the_state_to_compare():
    assert solved(GroundTruth(), "42", "abc") is None
    assert solved(GroundTruth(state_hash="abc"), "done", None) is None


@pytest.mark.parametrize("checked", [True, False])
def test_a_toolset_that_judges_for_itself_has_the_last_word(checked):
    assert solved(GroundTruth(answer="42"), "42", None, checked) is checked
    assert solved(GroundTruth(state_hash="abc"), None, "abd", checked) is checked
    assert solved(GroundTruth(), None, None, checked) is checked
