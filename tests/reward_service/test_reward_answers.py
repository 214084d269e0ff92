"""When an answer counts."""

from __future__ import annotations

import pytest

from reward_service.answers import ExactMatch, NormalisedMatch, NumericMatch, solved
from tool_sandbox.tasks import GroundTruth

EXACT, NORMAL, NUMERIC = ExactMatch(), NormalisedMatch(), NumericMatch(relative=0.01)


@pytest.mark.parametrize(
    ("expected", "answer", "exact", "normal", "numeric"),
    [
        ("42", "42", True, True, True),
        ("42", " 42.0 ", False, True, True),
        ("42", "It is 42.", False, False, True),
        ("42", "42.4", False, False, True),
        ("42", "42.5", False, False, False),
        ("42", "first 42, then 7", False, False, False),
        ("-1234.5", "about -1,234.5 euros", False, False, True),
        ("1000", "1e3", False, False, True),
        ("Paris", "paris.", False, True, True),
        ("Paris", "It is Paris", False, False, False),
    ],
)
def test_three_ways_to_compare_an_answer(expected, answer, exact, normal, numeric):
    truth = GroundTruth(answer=expected)
    found = [solved(truth, answer, None, None, match) for match in (EXACT, NORMAL, NUMERIC)]
    assert found == [exact, normal, numeric]


@pytest.mark.parametrize("match", [EXACT, NORMAL, NUMERIC])
def test_states_verdicts_and_unknown_truths_do_not_depend_on_the_comparison(match):
    assert solved(GroundTruth(state_hash="s"), "42", "s", None, match) is True
    assert solved(GroundTruth(answer="42"), "41", None, True, match) is True
    assert solved(GroundTruth(), "42", None, None, match) is None
    assert solved(GroundTruth(answer="42"), None, None, None, match) is False
