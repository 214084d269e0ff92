"""Groups stay whole and every trajectory is in exactly one minibatch."""

from __future__ import annotations

import pytest

from learner.credit import CreditedTrajectory
from learner.minibatches import split_groups
from tests.learner.builders import credited, step


def batch(groups: int) -> list[CreditedTrajectory]:
    return [credited([1.0], [step((1,), (2,))], id=f"{g}/{k}", group=f"g-{g}") for k in range(2) for g in range(groups)]


@pytest.mark.parametrize(
    ("groups", "count", "expected"),
    [
        (6, 1, [["g-0", "g-1", "g-2", "g-3", "g-4", "g-5"]]),
        (6, 3, [["g-0", "g-1"], ["g-2", "g-3"], ["g-4", "g-5"]]),
        (5, 2, [["g-0", "g-1"], ["g-2", "g-3", "g-4"]]),
        (2, 4, [["g-0"], ["g-1"]]),
    ],
)
def test_neighbouring_groups_share_a_part(groups: int, count: int, expected: list[list[str]]) -> None:
    parts = split_groups(batch(groups), count)
    found = [list(dict.fromkeys(one.scored.trajectory.group for one in part)) for part in parts]
    assert found == expected
    assert all(len(part) == 2 * len(names) for part, names in zip(parts, expected, strict=True))


def test_nothing_is_one_empty_part() -> None:
    assert split_groups([], 3) == [[]]
