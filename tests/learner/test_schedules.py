"""Learning rates by hand-worked numbers."""

from __future__ import annotations

import pytest

from learner.config import CosineSchedule, LinearSchedule, OptimiserConfig
from learner.schedules import rate_at


def test_a_constant_rate_rises_and_stays() -> None:
    config = OptimiserConfig(warmup_steps=4)
    assert [rate_at(step, 2.0, config) for step in (0, 1, 3, 4, 1000)] == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_linear_rate_falls_from_the_end_of_the_warm_up_to_its_final_share() -> None:
    config = OptimiserConfig(warmup_steps=2, schedule=LinearSchedule(steps=10, final=0.2))
    # Half way between 2 and 10 half of the fall by 0.8 is done.
    assert [rate_at(step, 1.0, config) for step in (0, 1, 2, 6, 10, 50)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.6, 0.2, 0.2]
    )


def test_a_cosine_rate_falls_slowly_at_either_end() -> None:
    config = OptimiserConfig(schedule=CosineSchedule(steps=6))
    # cos(π/3) = ½ after two of six steps.
    assert [rate_at(step, 4.0, config) for step in (0, 2, 3, 4, 6, 7)] == pytest.approx([4.0, 3.0, 2.0, 1.0, 0.0, 0.0])


def test_a_cosine_keeps_its_final_share() -> None:
    config = OptimiserConfig(warmup_steps=1, schedule=CosineSchedule(steps=3, final=0.5))
    assert [rate_at(step, 1.0, config) for step in (0, 1, 2, 3)] == pytest.approx([1.0, 1.0, 0.75, 0.5])
