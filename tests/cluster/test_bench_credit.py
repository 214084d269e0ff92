"""The numbers of `steptool bench credit`, by hand, and one small run of it."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.bench_credit import (
    ESTIMATORS,
    Judged,
    bench_credit,
    correlation,
    moments,
    ordered_pairs,
    share_in_order,
    with_interval,
)


def judged(*rows: tuple[float, float, int]) -> Judged:
    columns = np.array(rows, dtype=np.float64)
    return Judged(columns[:, 0], columns[:, 1], columns[:, 2])


def test_the_correlation_of_many_groups_is_that_of_all_their_calls_together() -> None:
    # Advantages 1, 2, 3 beside worths 0, 1, 1: covariance 1, spreads √2 and √(2/3) times √3 each, so r = √3 / 2.
    parts = [judged((1.0, 0.0, 0)), judged((2.0, 1.0, 0), (3.0, 1.0, 1))]
    sums = sum(moments(part) for part in parts)
    assert correlation(np.asarray(sums)[None]) == pytest.approx([3**0.5 / 2])


def test_advantages_that_do_not_differ_correlate_with_nothing() -> None:
    assert correlation(moments(judged((0.5, 0.0, 0), (0.5, 1.0, 0)))[None]) == pytest.approx([0.0])


def test_only_pairs_of_one_trajectory_whose_worths_differ_count_and_a_tie_is_half_right() -> None:
    group = judged((2.0, 1.0, 0), (1.0, 0.0, 0), (5.0, 0.0, 0), (3.0, 1.0, 1), (3.0, 0.0, 1), (9.0, 0.0, 2))
    # Trajectory 0: one right, one wrong. Trajectory 1: a tie. Trajectory 2: nothing to compare.
    assert ordered_pairs(group).tolist() == [1.5, 3.0]
    assert share_in_order(ordered_pairs(group)[None]) == pytest.approx([0.5])


def test_groups_that_are_all_alike_leave_no_doubt() -> None:
    pairs = np.array([[1.0, 2.0]] * 10)
    assert with_interval(pairs, share_in_order) == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_step_credit_orders_the_calls_of_a_trajectory_and_one_number_for_all_of_them_cannot() -> None:
    found = bench_credit(batches=1)
    assert found["trajectories"] == 64
    assert set(found["estimators"]) == set(ESTIMATORS)
    assert found["estimators"]["grpo"]["order"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["estimators"]["step_returns"]["order"]["low"] > 0.5
