"""From scored to credited trajectories, and what a critic remembers between batches."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from actors.trajectory import Trajectory
from learner.config import CreditConfig, ProgressTableConfig, StepGaeConfig, ValueHeadConfig
from learner.credit import StateAt
from learner.credit.config import (
    GrpoConfig,
    MonteCarloConfig,
    NoWhitening,
    StepReinforcePpConfig,
    StepReturnsConfig,
    TokenGaeConfig,
)
from learner.estimator import CreditAssigner
from tests.learner.builders import scored, step

VALUE_HEAD = StepGaeConfig(gamma=1.0, lam=0.0, critic=ValueHeadConfig())
TABLE = StepGaeConfig(gamma=1.0, lam=1.0, critic=ProgressTableConfig())


def no_values(trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS, /) -> Sequence[Sequence[float]]:
    raise AssertionError("only a value head reads values")


def test_a_value_head_is_read_once_per_step_and_its_values_are_credited() -> None:
    asked: list[str] = []

    def read(trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS, /) -> Sequence[Sequence[float]]:
        assert at is StateAt.STEPS
        asked.extend(one.id for one in trajectories)
        return [(0.5, 0.25), (1.0,)]

    batch = [scored([0.0, 1.0], id="a"), scored([0.5], id="b")]
    credited = CreditAssigner(VALUE_HEAD, read).assign(batch)
    assert asked == ["a", "b"]
    assert [one.returns for one in credited] == [(0.25, 1.0), (0.5,)]
    # δ: 0 + 0.25 − 0.5 = −0.25, 1 − 0.25 = 0.75, 0.5 − 1 = −0.5; mean 0, variance (0.0625 + 0.5625 + 0.25) / 3.
    scale = (0.875 / 3) ** 0.5
    assert credited[0].advantages == pytest.approx((-0.25 / scale, 0.75 / scale))
    assert credited[1].advantages == pytest.approx((-0.5 / scale,))


@pytest.mark.parametrize("config", [TABLE, StepReturnsConfig(), GrpoConfig(), StepReinforcePpConfig()])
def test_no_other_estimator_asks_the_policy_for_values(config: CreditConfig) -> None:
    batch = [scored([1.0], id="a", solved=1.0), scored([0.0], id="b", solved=0.0)]
    good, bad = CreditAssigner(config, no_values).assign(batch)
    assert good.advantages[0] is not None
    assert bad.advantages[0] is not None
    assert good.advantages[0] > 0 > bad.advantages[0]


def near_and_far(near: float, far: float) -> list:
    """One trajectory that starts one call from the solution, and one that starts two calls away."""
    return [
        scored([near], id="near", steps=[step((1,), (2,), progress=(1, 0))]),
        scored([far], id="far", steps=[step((1,), (2,), progress=(2, 1))]),
    ]


def test_a_table_learns_from_each_batch_after_it_was_credited() -> None:
    assigner = CreditAssigner(TABLE, no_values)
    first = assigner.assign(near_and_far(1.0, 0.0))
    for _ in range(20):
        assigner.assign(near_and_far(1.0, 0.0))
    later = assigner.assign(near_and_far(1.0, 0.5))
    assert first[0].advantages == pytest.approx((1.0,))
    # By now V is high near the solution and low far from it: half a reward from afar is the better surprise.
    assert later[1].advantages == pytest.approx((1.0,))
    assert later[0].advantages == pytest.approx((-1.0,))


def test_a_resumed_run_credits_the_next_batch_identically() -> None:
    assigner = CreditAssigner(TABLE, no_values)
    assigner.assign(near_and_far(1.0, 0.0))
    resumed = CreditAssigner(TABLE, no_values)
    resumed.restore(json.loads(json.dumps(assigner.state())))
    batch = [*near_and_far(0.75, 0.5), scored([0.25], id="third", steps=[step((1,), (2,), progress=(2, 1))])]
    forgot = CreditAssigner(TABLE, no_values).assign(batch)
    expected = assigner.assign(batch)
    assert resumed.assign(batch) == expected
    assert forgot != expected


def test_an_estimator_without_a_table_keeps_nothing() -> None:
    assigner = CreditAssigner(StepReinforcePpConfig(), no_values)
    assigner.restore(assigner.state())
    assert assigner.state() == {}


def test_an_estimator_over_tokens_asks_for_a_value_before_every_action_token() -> None:
    def read(trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS, /) -> Sequence[Sequence[float]]:
        assert at is StateAt.TOKENS
        return [[0.25] * sum(len(s.action_ids) for s in one.steps) for one in trajectories]

    config = TokenGaeConfig(gamma=1.0, lam=1.0, whiten=NoWhitening())
    (one,) = CreditAssigner(config, read).assign([scored([0.0, 1.0])])
    assert one.tokens is not None
    assert one.tokens.advantages == ((0.75, 0.75), (0.75, 0.75))


def test_monte_carlo_asks_for_as_many_continuations_as_it_is_set_to_and_takes_their_mean() -> None:
    asked: list[int] = []

    def play(trajectories: Sequence[Trajectory], count: int) -> Sequence[Sequence[Sequence[float]]]:
        asked.append(count)
        # From the start a quarter of the continuations earn 1, after the first step all do.
        return [[[1.0, 0.0, 0.0, 0.0], [1.0] * 4] for _ in trajectories]

    config = MonteCarloConfig(continuations=4, whiten=NoWhitening())
    (one,) = CreditAssigner(config, no_values, play).assign([scored([0.0, 0.5])])
    assert asked == [4]
    assert one.advantages == (0.75, -0.5)


def test_monte_carlo_without_anybody_who_plays_continuations_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="nobody plays continuations here"):
        CreditAssigner(MonteCarloConfig(), no_values)
