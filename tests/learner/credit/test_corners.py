"""What the estimators do where their equations leave a choice."""

from __future__ import annotations

import pytest

from learner.credit import assign_credit
from learner.credit.bilevel_gae import bilevel_gae
from learner.credit.config import (
    BilevelGaeConfig,
    GigpoConfig,
    NoWhitening,
    PpoOutcomeConfig,
    StepGaeConfig,
    TreeConfig,
    ValueHeadConfig,
)
from tests.learner.builders import scored, step
from tool_sandbox.tasks import StopReason

PLAIN = NoWhitening()


def test_ppo_on_an_outcome_that_nobody_knows_gives_no_credit() -> None:
    batch = [scored([0.5, 1.0], id="unknown", solved=None), scored([0.0], id="known")]
    config = PpoOutcomeConfig(gamma=1.0, lam=1.0, whiten=PLAIN)
    unknown, known = assign_credit(batch, [[0.5] * 4, [0.5] * 2], config)
    assert unknown.advantages == unknown.returns == (None, None)
    assert known.advantages == (0.5,)


def test_a_cut_whose_state_nobody_read_gives_no_credit() -> None:
    """What came after the last step is no part of the trajectory: a value of 0 would punish what led there."""
    cut = scored([0.5, 0.5], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    (one,) = assign_credit([cut], [(0.9, 0.9)], StepGaeConfig())
    assert one.advantages == one.returns == (None, None)


def test_turn_ppo_is_step_gae_with_other_settings() -> None:
    config = StepGaeConfig(gamma=0.99, lam=0.9, critic=ValueHeadConfig(), whiten=PLAIN)
    (one,) = assign_credit([scored([0.0, 1.0])], [(0.5, 0.8)], config)
    # δ = [.99·.8 − .5, 1 − .8] = [.292, .2]; Â₁ = .292 + .891·.2
    assert one.advantages == pytest.approx((0.4702, 0.2))
    assert one.returns == pytest.approx((0.9702, 1.0))


def test_a_tree_shares_a_step_only_where_everything_before_it_is_the_same() -> None:
    def says(*tokens: int) -> list:
        return [step((1, 2) if not t else (3,), (token,)) for t, token in enumerate(tokens)]

    batch = [
        scored([0.0, 0.0, 1.0], id="a", steps=says(5, 6, 7)),
        scored([0.0, 0.0, 0.0], id="b", steps=says(5, 6, 8)),
        scored([0.0, 0.0, 0.0], id="c", steps=says(9, 6, 7)),
    ]
    a, b, c = assign_credit(batch, None, TreeConfig())
    assert a.advantages[:2] == b.advantages[:2]
    assert a.advantages[2] != b.advantages[2]
    assert a.advantages[1] != c.advantages[1]


def test_gigpo_tells_visits_of_one_state_apart_by_what_came_of_them() -> None:
    def sees(*tokens: int) -> list:
        return [step((token,) * 4, (token, t)) for t, token in enumerate(tokens)]

    batch = [
        scored([0.0, 0.0, 1.0], id="detour", steps=sees(0, 8, 8)),
        scored([0.0, 1.0], id="straight", steps=sees(0, 8)),
    ]
    detour, straight = assign_credit(batch, None, GigpoConfig(gamma=0.5))
    # Both are worth 1, so the trajectories tell nothing. At the prompt: ¼ and ½; the deviation ⅛ exceeds the floor: ±1.
    # Where 8 was seen the returns are ½, 1 and 1: mean 5/6, deviation √2/6.
    assert detour.advantages == pytest.approx((-1.0, -(2**0.5), 0.5**0.5))
    assert straight.advantages == pytest.approx((1.0, 0.5**0.5))


def test_bilevel_gae_decays_within_a_step_by_settings_of_its_own() -> None:
    config = BilevelGaeConfig(gamma=1.0, lam=1.0, token_gamma=0.5, token_lam=0.5)
    first, second = bilevel_gae([0.0, 1.0], [(0.0, 0.0, 0.0), (0.0,)], config)
    # The second step's return of 1 reaches the first one whole, and within it falls to a quarter at each token.
    assert (first, second) == (pytest.approx((0.0625, 0.25, 1.0)), (1.0,))
