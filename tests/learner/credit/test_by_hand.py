"""Each estimator by numbers that were worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from learner.credit import CreditedTrajectory, assign_credit
from learner.credit.bilevel_gae import bilevel_gae
from learner.credit.config import (
    BilevelGaeConfig,
    GigpoConfig,
    GrpoConfig,
    LeaveOneOutConfig,
    MonteCarloConfig,
    MtGrpoConfig,
    NoWhitening,
    PpoOutcomeConfig,
    ReinforcePpConfig,
    RftConfig,
    RlooConfig,
    StepGaeConfig,
    StepReinforcePpConfig,
    StepReturnsConfig,
    StepRlooConfig,
    TokenGaeConfig,
    TreeConfig,
)
from learner.credit.gigpo import anchors
from learner.credit.monte_carlo import prefix_values
from learner.credit.normalising import normalise
from learner.credit.step_gae import step_gae
from learner.credit.step_returns import step_returns
from learner.credit.step_rloo import step_rloo
from learner.credit.token_gae_masked import token_gae
from tests.learner.builders import CALL, scored, step
from tool_sandbox.tasks import StopReason

AS_IS = NoWhitening()


def tokens(one: CreditedTrajectory) -> list[tuple[float, ...] | None]:
    """Advantages of the tokens, step by step."""
    assert one.tokens is not None
    return list(one.tokens.advantages)


def close(found: Sequence[Any], *expected: Any) -> None:
    """Compare step by step, None with None."""
    for one, other in zip(found, expected, strict=True):
        assert one == (None if other is None else pytest.approx(other))


# -- with a critic ----------------------------------------------------------------------------------------------------


def test_the_final_reward_reaches_the_first_step_undiscounted() -> None:
    assert step_returns([0.0, 0.0, 1.0], gamma=1.0) == [1.0, 1.0, 1.0]
    assert step_gae([0.0, 0.0, 1.0], [0.0, 0.0, 0.0], gamma=1.0, lam=1.0) == [1.0, 1.0, 1.0]


def test_the_final_reward_reaches_the_first_step_halved_at_each_step() -> None:
    assert step_returns([0.0, 0.0, 1.0], gamma=0.5) == [0.25, 0.5, 1.0]
    assert step_gae([0.0, 0.0, 1.0], [0.0, 0.0, 0.0], gamma=0.5, lam=1.0) == [0.25, 0.5, 1.0]


def test_step_gae_with_values() -> None:
    # δ = [0 + .5·.4 − .2, 0 + .5·.6 − .4, 1 − .6] = [0, −.1, .4]; γλ = .25; Â = [0 − .0, −.1 + .1, .4]
    assert step_gae([0.0, 0.0, 1.0], [0.2, 0.4, 0.6], gamma=0.5, lam=0.5) == pytest.approx([0.0, 0.0, 0.4])


def test_step_gae_of_a_cut_episode_goes_on_from_the_value_where_it_was_cut() -> None:
    assert step_gae([0.0], [0.2], gamma=0.5, lam=1.0, bootstrap=0.8) == pytest.approx([0.2])


def test_step_gae_under_the_settings_of_turn_ppo() -> None:
    config = StepGaeConfig(gamma=0.99, lam=0.9, critic={"kind": "value_head"}, whiten=AS_IS)
    (one,) = assign_credit([scored([0.0, 1.0])], [(0.5, 0.8)], config)
    # δ = [.99·.8 − .5, 1 − .8] = [.292, .2]; Â₁ = .292 + .891·.2
    close(one.advantages, 0.4702, 0.2)
    close(one.returns, 0.9702, 1.0)


def test_token_gae_counts_action_tokens_and_pays_a_step_at_its_last() -> None:
    found = token_gae([0.0, 1.0], [(0.0, 0.0), (0.0, 0.0, 0.0)], gamma=0.5, lam=1.0)
    assert found == [(0.0625, 0.125), (0.25, 0.5, 1.0)]


def test_token_gae_with_values_and_its_targets() -> None:
    config = TokenGaeConfig(gamma=1.0, lam=0.5, whiten=AS_IS)
    (one,) = assign_credit([scored([0.2, 1.0])], [[0.1, 0.3, 0.4, 0.8]], config)
    # δ = [.3 − .1, .2 + .4 − .3, .8 − .4, 1 − .8] = [.2, .3, .4, .2]; back to front with ½: .2, .5, .55, .475
    close(tokens(one), (0.475, 0.55), (0.5, 0.2))
    assert one.tokens is not None
    close(one.tokens.returns, (0.575, 0.85), (0.9, 1.0))
    # A step shows the mean of its tokens, and the target at the state before it.
    close(one.advantages, 0.5125, 0.35)
    close(one.returns, 0.575, 0.9)


def test_bilevel_gae_hands_the_return_of_a_step_down_to_its_tokens() -> None:
    config = BilevelGaeConfig(gamma=0.5, lam=1.0, token_gamma=1.0, token_lam=1.0)
    found = bilevel_gae([0.2, 1.0], [(0.1, 0.3), (0.4, 0.8)], config)
    # Steps, on the values before the last tokens .3 and .8: δ = [.2 + .4 − .3, 1 − .8] = [.3, .2], Â = [.4, .2].
    # The returns .7 and 1 are then the rewards of the last tokens: .7 − .1 and .7 − .3; 1 − .4 and 1 − .8.
    close(found, (0.6, 0.4), (0.6, 0.2))


def test_bilevel_gae_decays_within_a_step_by_its_own_settings() -> None:
    config = BilevelGaeConfig(gamma=1.0, lam=1.0, token_gamma=0.5, token_lam=0.5)
    found = bilevel_gae([0.0, 1.0], [(0.0, 0.0, 0.0), (0.0,)], config)
    # The second step's return of 1 reaches the first one whole, and within it falls to a quarter at each token.
    close(found, (0.0625, 0.25, 1.0), (1.0,))


def test_the_ablation_without_step_optimisation_lets_no_credit_cross_a_step() -> None:
    config = BilevelGaeConfig(gamma=0.0, whiten=AS_IS)
    (a,), (b,) = (assign_credit([scored([0.2, last])], [[0.25] * 4], config) for last in (0.0, 1.0))
    assert tokens(a)[0] == tokens(b)[0]
    close(tokens(b), (-0.05, -0.05), (0.75, 0.75))


def test_the_ablation_without_step_reward_sees_none() -> None:
    config = PpoOutcomeConfig(gamma=1.0, lam=1.0, whiten=AS_IS)
    (one,), (other,) = (assign_credit([scored(r)], [[0.25] * 4], config) for r in ([0.9, 1.0], [-0.4, 0.0]))
    close(tokens(one), (0.75, 0.75), (0.75, 0.75))
    assert one.tokens == other.tokens


def test_ppo_on_outcomes_that_nobody_knows_gives_no_credit() -> None:
    batch = [scored([0.5, 1.0], id="unknown", solved=None), scored([0.0], id="known")]
    unknown, known = assign_credit(batch, [[0.5] * 4, [0.5] * 2], PpoOutcomeConfig(gamma=1.0, lam=1.0, whiten=AS_IS))
    assert unknown.advantages == unknown.returns == (None, None)
    close(tokens(known), (0.5, 0.5))


def test_a_cut_whose_state_nobody_read_gives_no_credit() -> None:
    """The state after the last step is no part of the trajectory: taking 0 for its value would punish what led there."""
    cut = scored([0.5, 0.5], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    (one,) = assign_credit([cut], [(0.9, 0.9)], StepGaeConfig())
    assert one.advantages == one.returns == (None, None)


# -- without a critic -------------------------------------------------------------------------------------------------


def test_step_returns_are_normalised_within_the_group_and_the_step_index() -> None:
    batch = [scored([1.0, 1.0], id="a"), scored([0.0, 0.0], id="b", solved=0.0)]
    a, b = assign_credit(batch, None, StepReturnsConfig(gamma=1.0))
    # returns [2, 1] and [0, 0]: means 1 and .5, deviations 1 and .5
    close(a.advantages, 1.0, 1.0)
    close(b.advantages, -1.0, -1.0)
    assert a.returns == (2.0, 1.0)


def test_step_rloo_compares_with_the_others_at_the_same_step() -> None:
    # First step: 3 − (1 + 2)/2, 1 − (3 + 2)/2, 2 − (3 + 1)/2. Second: 2 − 1 and 1 − 2.
    assert step_rloo([[3.0, 2.0], [1.0, 1.0], [2.0]]) == [[1.5, 1.0], [-1.5, -1.0], [0.0]]


def test_step_rloo_compares_a_step_that_nobody_else_reached_with_all_steps_of_the_others() -> None:
    # 4 − (1 + 2)/2 for the second step: its own trajectory's first step is no part of its baseline.
    assert step_rloo([[3.0, 4.0], [1.0], [2.0]]) == [[1.5, 2.5], [-1.5], [0.0]]


def test_step_rloo_over_two_groups() -> None:
    batch = [
        scored([0.0, 1.0], id="a"),
        scored([5.0], id="c", group="h"),
        scored([0.0, 0.0], id="b", solved=0.0),
        scored([3.0], id="d", group="h"),
    ]
    found = assign_credit(batch, None, StepRlooConfig(gamma=0.5))
    # Returns [.5, 1] against [0, 0], and 5 against 3.
    for one, expected in zip(found, [(0.5, 1.0), (2.0,), (-0.5, -1.0), (-2.0,)], strict=True):
        close(one.advantages, *expected)


def test_step_reinforce_pp_whitens_returns_over_the_batch() -> None:
    batch = [scored([1.0, 2.0], id="a"), scored([1.0], id="b", group="h")]
    a, b = assign_credit(batch, None, StepReinforcePpConfig(gamma=0.5))
    # Returns 2, 2, 1: mean 5/3, deviation √2/3.
    close(a.advantages, 0.5**0.5, 0.5**0.5)
    close(b.advantages, -(2**0.5))


def at(*observations: int) -> list[Any]:
    """Steps that see these tokens."""
    return [step((1, 2) if not t else (token, 3), (token, t)) for t, token in enumerate(observations)]


def test_gigpo_compares_trajectories_over_the_group_and_steps_at_the_states_that_they_share() -> None:
    batch = [
        scored([0.0, 1.0], id="a", steps=at(0, 8)),
        scored([0.0, 0.0], id="b", steps=at(0, 8)),
        scored([0.0, 1.0], id="c", steps=at(0, 9)),
        scored([0.0, 0.0], id="d", steps=at(0, 9)),
    ]
    a, b, c, d = assign_credit(batch, None, GigpoConfig(gamma=0.5, step_weight=0.5))
    # Trajectories 1, 0, 1, 0: ±1. All share the prompt, with returns ½, 0, ½, 0: ±1. a, b share what they saw then: ±1.
    for one, sign in ((a, 1.0), (b, -1.0), (c, 1.0), (d, -1.0)):
        close(one.advantages, 1.5 * sign, 1.5 * sign)


def test_gigpo_tells_steps_at_one_state_apart_by_what_came_of_them() -> None:
    batch = [
        scored([0.0, 0.0, 1.0], id="detour", steps=at(0, 8, 8)),
        scored([0.0, 1.0], id="straight", steps=at(0, 8)),
    ]
    detour, straight = assign_credit(batch, None, GigpoConfig(gamma=0.5))
    # Both are worth 1, so the trajectories tell nothing. At the prompt: ¼ and ½, ±1. Where token 8 was seen the returns
    # are ½, 1 and 1: mean 5/6, deviation √2/6.
    close(detour.advantages, -1.0, -(2**0.5), 0.5**0.5)
    close(straight.advantages, 1.0, 0.5**0.5)


def test_gigpo_without_shared_states_is_left_with_the_trajectories() -> None:
    batch = [scored([1.0], id="a", steps=[step((1,), (2,))]), scored([0.0], id="b", steps=[step((5,), (2,))])]
    a, b = assign_credit(batch, None, GigpoConfig())
    assert (a.advantages, b.advantages) == ((1.0,), (-1.0,))


def test_an_observation_that_nobody_else_saw_joins_one_that_is_nearly_the_same() -> None:
    common = tuple(range(20))
    nearly, other = (*common[:19], 99), tuple(range(50, 70))
    # 19 tokens of 20 in common: a share of 2·19/40 = 0.95.
    assert anchors([common, common, nearly, other], 0.95) == [0, 0, 0, 1]
    assert anchors([common, common, nearly, other], 0.96) == [0, 0, 1, 2]
    assert anchors([common, common, nearly, other], 1.0) == [0, 0, 1, 2]


def test_mt_grpo_adds_the_turns_own_reward_to_the_outcome() -> None:
    batch = [scored([1.0, 1.0], id="a"), scored([0.0, 0.0], id="b", solved=0.0), scored([1.0, 0.0], id="c", solved=0.0)]
    a, b, c = assign_credit(batch, None, MtGrpoConfig(turn_weight=0.5))
    # Outcomes 1, 0, 0: mean ⅓, deviation √2/3: √2, −1/√2. First turns 1, 0, 1: 1/√2, −√2, 1/√2.
    root, half = 2**0.5, 0.5**0.5
    close(a.advantages, root + 0.5 * half, root)
    close(b.advantages, -half - 0.5 * root, -half)
    close(c.advantages, -half + 0.5 * half, -half)


def fork(*said: int) -> list[Any]:
    """Steps that are told apart by what was said; what is seen follows from it."""
    return [step((1, 2) if not t else (said[t - 1], 3), (token,)) for t, token in enumerate(said)]


def test_tree_compares_branches_within_their_tree_and_trees_over_the_group() -> None:
    batch = [
        scored([0.0, 1.0], id="a", steps=fork(5, 6)),
        scored([0.0, 0.0], id="b", steps=fork(5, 7)),
        scored([0.0, 0.0], id="c", steps=fork(8, 6)),
        scored([0.0, 0.0], id="d", steps=fork(8, 7)),
    ]
    a, b, c, d = assign_credit(batch, None, TreeConfig())
    # Over the group 1, 0, 0, 0: mean ¼, deviation √3/4: √3, −1/√3. Within the first tree ±1, within the second nothing.
    root, third = 3**0.5, 3**-0.5
    # The fork's shared step has the mean of its branches, (1 + √3 − 1 − 1/√3)/2.
    shared = (root - third) / 2
    close(a.advantages, shared, 1.0 + root)
    close(b.advantages, shared, -1.0 - third)
    close(c.advantages, -third, -third)
    close(d.advantages, -third, -third)


def test_tree_of_trajectories_that_share_nothing_is_the_comparison_over_the_group() -> None:
    batch = [scored([0.5, 1.0], id="a", steps=fork(5, 6)), scored([0.0, 0.5], id="b", steps=fork(8, 6))]
    a, b = assign_credit(batch, None, TreeConfig())
    assert (a.advantages, b.advantages) == ((1.0, 1.0), (-1.0, -1.0))


def test_tree_shares_a_step_only_where_everything_before_it_is_the_same() -> None:
    """The same words after another past are another node."""
    batch = [
        scored([0.0, 0.0, 1.0], id="a", steps=fork(5, 6, 7)),
        scored([0.0, 0.0, 0.0], id="b", steps=fork(5, 6, 8)),
        scored([0.0, 0.0, 0.0], id="c", steps=fork(9, 6, 7)),
    ]
    a, b, c = assign_credit(batch, None, TreeConfig())
    assert a.advantages[:2] == b.advantages[:2]
    assert a.advantages[2] != b.advantages[2]
    assert a.advantages[1] != c.advantages[1]


def test_monte_carlo_reads_the_value_of_a_state_from_its_continuations() -> None:
    assert prefix_values([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0]]) == [0.25, 1.0]
    with pytest.raises(ValueError, match=r"monte_carlo: \[1, 0\] continuations"):
        prefix_values([[1.0], []])


def test_monte_carlo_credits_what_a_step_gained() -> None:
    config = MonteCarloConfig(gamma=1.0, whiten=AS_IS)
    (one,) = assign_credit([scored([0.0, 0.0, 1.0])], [(0.25, 0.75, 0.5)], config)
    # The second step threw half of a chance away, and the third made good of what was left.
    close(one.advantages, 0.5, -0.25, 0.5)


def test_leave_one_out_credits_calls_with_what_a_replay_lost_without_them() -> None:
    calls = [step((1,), (2,), does=CALL), step((3,), (4,), does=CALL), step((5,), (6,))]
    batch = [scored([0.1, 0.2, 1.0], steps=calls, contributions=[1.0, -0.5, None])]
    (one,) = assign_credit(batch, None, LeaveOneOutConfig(whiten=AS_IS))
    # Of the answer nothing needs to be measured: without it there is none, so it is worth the outcome.
    assert one.advantages == (1.0, -0.5, 1.0)


# -- on outcomes alone ------------------------------------------------------------------------------------------------

OUTCOMES = (1.0, 0.0, 0.0, 1.0, 0.0)


def on_outcomes(config: Any) -> list[Any]:
    """Advantages of one group of three and one of two, whose step rewards nobody asks for."""
    groups = ("g", "g", "g", "h", "h")
    batch = [
        scored([7.0, 3.0], id=str(i), group=group, solved=outcome)
        for i, (group, outcome) in enumerate(zip(groups, OUTCOMES, strict=True))
    ]
    found = assign_credit(batch, None, config)
    assert all(one.advantages[0] == one.advantages[1] for one in found)
    return [one.advantages[0] for one in found]


def test_grpo_normalises_outcomes_over_the_group() -> None:
    # Mean ⅓ and deviation √2/3 in the first, ½ and ½ in the second.
    assert on_outcomes(GrpoConfig()) == pytest.approx([2**0.5, -(0.5**0.5), -(0.5**0.5), 1.0, -1.0])


def test_rloo_takes_the_mean_of_the_others_away() -> None:
    assert on_outcomes(RlooConfig()) == pytest.approx([1.0, -0.5, -0.5, 1.0, -1.0])


def test_reinforce_pp_whitens_outcomes_over_the_batch() -> None:
    # Mean ⅖, deviation √6/5.
    good, bad = 3 / 6**0.5, -2 / 6**0.5
    assert on_outcomes(ReinforcePpConfig()) == pytest.approx([good, bad, bad, good, bad])


def test_rft_imitates_what_was_solved_and_nothing_else() -> None:
    assert on_outcomes(RftConfig()) == [1.0, None, None, 1.0, None]


def test_reinforce_pp_weighs_trajectories_and_not_steps() -> None:
    batch = [scored([0.0] * 9 + [1.0], id="long"), scored([0.0], id="short", group="h", solved=0.0)]
    long, short = assign_credit(batch, None, ReinforcePpConfig())
    assert (set(long.advantages), short.advantages) == ({1.0}, (-1.0,))


def test_normalising_gives_mean_zero_and_deviation_one() -> None:
    assert normalise([1.0, 2.0, 3.0]) == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5])
    assert normalise([2.0, 2.0]) == [0.0, 0.0]
    assert normalise([0.02, 0.0], min_std=0.1) == pytest.approx([0.1, -0.1])
