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


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("The range is 10-17", "17"),
        ("between 10%-17%", "17"),
        ("between f(1)-17", "17"),
        ("on 2023-05-17", "17"),
        ("model Zoë-17", "17"),
        ("on page 3.-17", "17"),
        ("-17", "-17"),
        ("x=-17", "-17"),
        ("It fell (-17)", "-17"),
        ("It rose by +17.", "17"),
        ("from 10 to -.5", "-0.5"),
        ("from 1e3 to -1.7e-1", "-0.17"),
    ],
)
def test_a_hyphen_is_a_sign_only_where_nothing_stands_before_it_that_it_could_join(answer, number):
    other = number.removeprefix("-") if number.startswith("-") else f"-{number}"
    found = [solved(GroundTruth(answer=one), answer, None, None, NUMERIC) for one in (number, other)]
    assert found == [True, False]


@pytest.mark.parametrize("match", [EXACT, NORMAL, NUMERIC])
def test_states_verdicts_and_unknown_truths_do_not_depend_on_the_comparison(match):
    assert solved(GroundTruth(state_hash="s"), "42", "s", None, match) is True
    assert solved(GroundTruth(answer="42"), "41", None, True, match) is True
    assert solved(GroundTruth(), "42", None, None, match) is None
    assert solved(GroundTruth(answer="42"), None, None, None, match) is False
