"""The critic that looks values up by what the ground truth knows of a state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from learner.config import ProgressTableConfig
from learner.progress_table import ProgressTable, calls_needed
from tests.learner.builders import scored, step


def table_batch() -> list[Any]:
    steps = [step((1,), (2,), progress=(2, 1)), step((1,), (2,), progress=(1, 0)), step((1,), (2,))]
    return [
        scored([0.0, 0.0, 1.0], id="a", steps=steps),
        scored([0.0, 0.0, 0.0], id="b", steps=steps, solved=0.0),
        scored([0.0, 0.0, 1.0], id="c", steps=steps),
    ]


def test_calls_needed_follow_the_ground_truth_through_the_answer() -> None:
    assert calls_needed(table_batch()[0].trajectory) == [2, 1, 0]
    assert calls_needed(scored([0.0]).trajectory) == [2]


def test_the_progress_table_leaves_a_trajectorys_own_return_out() -> None:
    table = ProgressTable(ProgressTableConfig(prior_visits=1.0), gamma=1.0)
    a, b, c = table.values(table_batch())
    # The others of `a` earned 0 and 1: every mean is ½. Those of `b` earned 1 and 1.
    assert a == c == pytest.approx((0.5, 0.5, 0.5))
    assert b == pytest.approx((1.0, 1.0, 1.0))


def test_the_progress_table_shrinks_a_rare_cell_to_the_coarser_mean() -> None:
    table = ProgressTable(ProgressTableConfig(prior_visits=1.0), gamma=1.0)
    near = [scored([1.0], id=f"n{i}", steps=[step((1,), (2,), progress=(1, 0))]) for i in range(3)]
    far = scored([0.0], id="far", steps=[step((1,), (2,), progress=(5, 5))], solved=0.0)
    table.learn([*near, far])
    fresh = scored([0.0], id="new", steps=[step((1,), (2,), progress=(5, 4))], solved=0.0)
    unseen = scored([0.0], id="odd", steps=[step((1,), (2,), progress=(9, 8))], solved=0.0)
    ((rare,),), ((never,),) = table.values([fresh]), table.values([unseen])
    # Everything ¾; distance 5: (0 + ¾)/2 = ⅜; its cell: (0 + ⅜)/2 = 3/16. A distance never seen keeps ¾.
    assert rare == pytest.approx(3 / 16)
    assert never == pytest.approx(3 / 4)


def test_the_progress_table_tells_near_from_far() -> None:
    table = ProgressTable(ProgressTableConfig(), gamma=0.5)
    table.learn(table_batch())
    far, nearer, done = table.values(table_batch())[0]
    assert far < nearer < done


def test_the_progress_table_round_trips() -> None:
    table = ProgressTable(ProgressTableConfig(), gamma=0.9)
    table.learn(table_batch())
    again = ProgressTable(ProgressTableConfig(), gamma=0.9)
    again.restore(json.loads(json.dumps(table.state())))
    assert again.values(table_batch()) == table.values(table_batch())
    assert again.state() == table.state()
