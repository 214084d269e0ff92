"""When an answer counts, and the paper's rule of overlap."""

from __future__ import annotations

import random

import pytest

from reward_service.answers import ExactMatch, NormalisedMatch, NumericMatch, solved
from reward_service.overlap import contributed, covered, longest_common_subsequence
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


def by_definition(left: str, right: str) -> int:
    row = [0] * (len(right) + 1)
    for a in left:
        before = row[:]
        for j, b in enumerate(right):
            row[j + 1] = before[j] + 1 if a == b else max(before[j + 1], row[j])
    return row[-1]


def test_the_longest_common_subsequence_is_that_of_the_definition():
    assert longest_common_subsequence("AGCAT", "GAC") == 2
    chance = random.Random(7)
    for _ in range(200):
        left, right = ("".join(chance.choices("abc", k=chance.randrange(40))) for _ in range(2))
        assert longest_common_subsequence(left, right) == by_definition(left, right)


def test_a_result_contributed_where_enough_of_it_stands_in_the_answer():
    # All 4 characters of "lamp" stand in order in the answer; of "0123456789" only "42" does not: 2 comes before 4.
    assert covered("lamp", "the lamp costs 42") == 1.0
    assert covered("0123456789", "42") == pytest.approx(0.1)
    assert [contributed("lamp", "the lamp", 0.3), contributed("0123456789", "42", 0.3)] == [1.0, 0.0]
    assert [contributed("", "42", 0.3), contributed("lamp", None, 0.3)] == [0.0, 0.0]
