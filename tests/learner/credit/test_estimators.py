"""Each estimator by numbers that were worked out by hand, or that its authors published."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import permutations
from typing import Any

import pytest

from actors.trajectory import Step
from learner.credit import CreditedTrajectory, assign_credit
from learner.credit.bilevel_gae import bilevel_gae
from learner.credit.config import (
    ArcherConfig,
    BilevelGaeConfig,
    EtoConfig,
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
    StepReinforcePpConfig,
    StepReturnsConfig,
    StepRlooConfig,
    TokenGaeConfig,
    TreeConfig,
)
from learner.credit.gigpo import peers
from learner.credit.monte_carlo import prefix_values, return_from
from learner.credit.token_gae_masked import token_gae
from tests.learner.builders import CALL, scored, step
from tool_sandbox.tasks import StopReason

PLAIN = NoWhitening()


def tokens(one: CreditedTrajectory) -> tuple[Any, Any]:
    assert one.tokens is not None
    return one.tokens.advantages, one.tokens.returns


def test_token_gae_skips_the_observation_between_two_steps() -> None:
    # γ = λ = ½, values .4 before each token, reward 1 at the last of four tokens: δ = −.2, −.2, −.2, .6; γλ = ¼.
    found = token_gae([0.0, 1.0], [(0.4, 0.4), (0.4, 0.4)], 0.5, 0.5)
    assert found == [pytest.approx((-0.253125, -0.2125)), pytest.approx((-0.05, 0.6))]


def test_token_credit_reaches_the_packer_by_token_and_the_records_as_its_mean() -> None:
    steps = [step((1, 2), (3, 4)), step((5, 6, 7), (8,))]
    config = TokenGaeConfig(gamma=0.5, lam=1.0, whiten=PLAIN)
    (one,) = assign_credit([scored([0.0, 1.0], steps=steps)], [[0.0, 0.25, 0.5]], config)
    # Â of the tokens: ¼ − 0, ½ − ¼, 1 − ½; targets ¼, ½, 1.
    assert tokens(one) == (((0.25, 0.25), (0.5,)), ((0.25, 0.5), (1.0,)))
    assert one.advantages == (0.25, 0.5)
    assert one.returns == (0.25, 1.0)


def test_bilevel_gae_on_the_example_of_ragens_own_code() -> None:
    """Two turns of five tokens, a reward of 1 at the end of each, values 0.1 … 1.0, γ = λ = 1, γ of a turn 0.95.

    The second turn returns 1.0. The first returns 1 + 0.95 · 1.0 = 1.95, as V before its last token is 0.5 and
    Â = 1 + 0.95 · 1.0 − 0.5 = 1.45. Within a turn every token gets the turn's return less its own value.
    """
    values = [(0.1, 0.2, 0.3, 0.4, 0.5), (0.6, 0.7, 0.8, 0.9, 1.0)]
    found = bilevel_gae([1.0, 1.0], values, BilevelGaeConfig(gamma=0.95, lam=1.0))
    assert found[0] == pytest.approx((1.85, 1.75, 1.65, 1.55, 1.45))
    assert found[1] == pytest.approx((0.4, 0.3, 0.2, 0.1, 0.0))


def test_without_step_optimisation_no_credit_crosses_a_step() -> None:
    """The paper's ablation: every step a sub-trajectory with its own reward, PPO over its tokens."""
    config = BilevelGaeConfig(gamma=0.0, token_gamma=0.5, token_lam=1.0, whiten=PLAIN)
    steps = [step((1,), (2, 3)), step((4,), (5, 6))]
    for last in (0.0, 1.0):
        (one,) = assign_credit([scored([0.8, last], steps=steps)], [[0.1, 0.2, 0.3, 0.4]], config)
        # The first step: .8 at its last token, halved once, less the values .1 and .2.
        assert tokens(one)[0][0] == pytest.approx((0.3, 0.6))
        assert tokens(one)[0][1] == pytest.approx((0.5 * last - 0.3, last - 0.4))


def test_gtpo_normalises_the_returns_of_each_turn_over_the_group() -> None:
    batch = [scored([1.0, 1.0], id="a"), scored([0.0, 0.0], id="b", solved=0.0)]
    a, b = assign_credit(batch, None, StepReturnsConfig(gamma=1.0))
    # returns [2, 1] and [0, 0]: means 1 and .5, deviations 1 and .5
    assert a.advantages == pytest.approx((1.0, 1.0))
    assert b.advantages == pytest.approx((-1.0, -1.0))
    assert a.returns == (2.0, 1.0)


def test_step_rloo_leaves_the_trajectory_itself_out() -> None:
    batch = [scored([0.0, 4.0], id="a"), scored([0.0, 1.0], id="b"), scored([3.0], id="c")]
    a, b, c = assign_credit(batch, None, StepRlooConfig(gamma=0.5))
    # returns (2, 4), (.5, 1), (3): at step 0 the others' means are 1.75, 2.5, 1.25; at step 1 they are 1 and 4.
    assert a.advantages == pytest.approx((0.25, 3.0))
    assert b.advantages == pytest.approx((-2.0, -3.0))
    assert c.advantages == pytest.approx((1.75,))


def test_step_rloo_compares_a_step_without_peers_with_all_steps_of_the_others() -> None:
    batch = [scored([0.0, 4.0], id="a"), scored([3.0], id="b"), scored([1.0], id="c")]
    a, _, _ = assign_credit(batch, None, StepRlooConfig(gamma=0.5))
    assert a.advantages == pytest.approx((0.0, 2.0))


def one_abstains() -> list[Any]:
    """Four that call and then answer, the third one wrongly; the reward of the fourth one's call abstained."""
    rewards = {"a": (0.5, 1.0), "b": (0.5, 1.0), "c": (0.5, 0.0), "d": (None, 1.0)}
    return [scored(given, id=name, solved=given[1]) for name, given in rewards.items()]


def test_an_answer_after_an_abstained_call_is_compared_with_the_answers() -> None:
    a, b, c, d = assign_credit(one_abstains(), None, StepReturnsConfig(gamma=1.0))
    # Answers 1, 1, 0, 1: mean ¾, deviation √3/4. Calls 1½, 1½, ½: mean 7/6, deviation √2/3.
    assert d.advantages == (None, pytest.approx(3**-0.5))
    assert a.advantages == b.advantages == pytest.approx((0.5**0.5, 3**-0.5))
    assert c.advantages == pytest.approx((-(2**0.5), -(3**0.5)))


def test_step_rloo_leaves_an_answer_after_an_abstained_call_among_the_answers() -> None:
    a, _, c, d = assign_credit(one_abstains(), None, StepRlooConfig(gamma=1.0))
    # The other answers are 1, 1, 0 for d and a; the other calls 1½, ½ for a.
    assert d.advantages == (None, pytest.approx(1 / 3))
    assert a.advantages == pytest.approx((0.5, 1 / 3))
    assert c.advantages == pytest.approx((-1.0, -1.0))


def test_mt_grpo_compares_turns_of_one_index_and_leaves_out_the_last_one_alone() -> None:
    """An abstention moves no turn, and makes no turn the last."""
    batch = [
        scored([0.1, 0.5, 1.0], id="a"),
        scored([None, 0.1, 0.0], id="b", solved=0.0),
        scored([0.3, 0.3, None], id="c", solved=0.5),
    ]
    a, b, c = assign_credit(batch, None, MtGrpoConfig())
    # Outcomes 1, 0, ½: ±√1.5 and 0. First turns .1 and .3: ∓1. Second turns .5, .1, .3: ±√1.5 and 0.
    most = 1.5**0.5
    assert a.advantages == pytest.approx((most - 1.0, 2 * most, most))
    assert b.advantages == (None, pytest.approx(-2 * most), pytest.approx(-most))
    assert c.advantages == (pytest.approx(1.0), pytest.approx(0.0), None)


def test_step_reinforce_pp_whitens_over_all_steps_of_the_batch() -> None:
    batch = [scored([1.0, 2.0], id="a", group="g"), scored([3.0], id="b", group="h")]
    a, b = assign_credit(batch, None, StepReinforcePpConfig(gamma=0.0))
    assert a.advantages == pytest.approx((-(1.5**0.5), 0.0))
    assert b.advantages == pytest.approx((1.5**0.5,))


def shop(*steps: tuple[int, int]) -> list[Step]:
    """(what is seen, what is said) at each step; four tokens of each, the task's prompt first."""
    return [step((seen,) * 4, (said,)) for seen, said in steps]


def test_gigpo_compares_trajectories_in_the_group_and_steps_at_the_same_state() -> None:
    """Both trajectories come by state 2, one of them twice, and only one buys there."""
    batch = [
        scored([0.0, 1.0], id="buys", steps=shop((1, 10), (2, 11))),
        scored([0.0, 0.0, 0.0], id="loops", steps=shop((1, 10), (2, 12), (2, 13)), solved=0.0),
    ]
    buys, loops = assign_credit(batch, None, GigpoConfig(gamma=0.5, similarity=1.0))
    # Episodes 1 and 0: ±1. State 1: returns ½ and 0: ±1. State 2: returns 1, 0, 0: mean ⅓, deviation √2/3.
    assert buys.advantages == pytest.approx((2.0, 1.0 + 2.0**0.5))
    assert loops.advantages == pytest.approx((-2.0, -1.0 - 0.5**0.5, -1.0 - 0.5**0.5))


def test_gigpo_gives_a_state_that_nobody_else_saw_the_episodes_part_alone() -> None:
    batch = [
        scored([0.0, 1.0], id="a", steps=shop((1, 10), (2, 11))),
        scored([0.0, 0.0], id="b", steps=shop((1, 12), (3, 13)), solved=0.0),
    ]
    a, b = assign_credit(batch, None, GigpoConfig(gamma=0.5, similarity=1.0))
    assert (a.advantages[1], b.advantages[1]) == pytest.approx((1.0, -1.0))


def test_gigpo_falls_back_to_similar_observations() -> None:
    seen = [(1,) * 20, (1,) * 19 + (2,), (3,) * 20]
    assert peers(seen, similarity=1.0) == [[0], [1], [2]]
    # 19 of 20 tokens in common are enough for the second; the third has none.
    assert peers(seen, similarity=0.95) == [[0, 1], [1, 0], [2]]
    assert peers(seen, similarity=0.96) == [[0], [1], [2]]


def test_gigpo_compares_those_who_saw_the_same_with_nobody_who_saw_something_similar() -> None:
    lone, often = (1,) * 19 + (2,), (1,) * 20
    assert peers([lone, often, often], similarity=0.95) == [[0, 1, 2], [1, 2], [1, 2]]


def test_gigpo_compares_a_step_with_all_that_are_near_to_it_and_with_nothing_that_is_near_to_those() -> None:
    """A chain: 19 of 20 tokens in common from one to the next, 18 from end to end."""
    a, b, c = (1,) * 20, (1,) * 19 + (2,), (1,) * 18 + (3, 2)
    for order in permutations([a, b, c]):
        found = dict(zip(order, peers(order, similarity=0.95), strict=True))
        assert {one: {order[place] for place in at} for one, at in found.items()} == {
            a: {a, b},
            b: {a, b, c},
            c: {b, c},
        }


def test_gigpo_finds_what_two_observations_share_whichever_is_searched_in_the_other() -> None:
    # Blocks in common: 0 1 0 and 0, or else 0 0 1 alone; that is 4 of 5 tokens or 3 of 5.
    one, other = (0, 0, 0, 1, 0), (0, 1, 0, 0, 1)
    assert SequenceMatcher(None, one, other, autojunk=False).ratio() == 0.8
    assert SequenceMatcher(None, other, one, autojunk=False).ratio() == 0.6
    assert peers([one, other], similarity=0.7) == [[0, 1], [1, 0]]
    assert peers([other, one], similarity=0.7) == [[0, 1], [1, 0]]


def test_mt_grpo_adds_the_turns_own_reward_to_the_outcome() -> None:
    batch = [scored([0.5, 1.0], id="a"), scored([0.1, 0.0], id="b", solved=0.0)]
    a, b = assign_credit(batch, None, MtGrpoConfig(turn_weight=0.5))
    # Outcomes 1 and 0: ±1. First turns .5 and .1: ±1, halved. Last turns: the outcome alone.
    assert a.advantages == pytest.approx((1.5, 1.0))
    assert b.advantages == pytest.approx((-1.5, -1.0))


def forked() -> list[Any]:
    """Two trees: one whose first step was taken on by two sessions, one of a single trajectory."""
    root = step((1, 2), (3,))
    return [
        scored([0.0, 1.0], id="a", steps=[root, step((5,), (6,))]),
        scored([0.0, 0.0], id="b", steps=[root, step((5,), (7,))], solved=0.0),
        scored([0.0, 0.5], id="c", steps=[step((1, 2), (4,)), step((8,), (6,))]),
    ]


def test_a_tree_compares_branches_within_it_and_leaves_over_the_group() -> None:
    a, b, c = assign_credit(forked(), None, TreeConfig(gamma=1.0))
    # Within the first tree ±1, alone 0. Over the group, returns 1, 0, ½: mean ½, deviation √(1/6), so ±√1.5 and 0.
    assert a.advantages[1] == pytest.approx(1.0 + 1.5**0.5)
    assert b.advantages[1] == pytest.approx(-1.0 - 1.5**0.5)
    # What the branches share cancels; nothing is said of c but that it is average.
    assert (a.advantages[0], b.advantages[0], *c.advantages) == pytest.approx((0.0, 0.0, 0.0, 0.0))


def test_without_forks_a_tree_is_the_group_alone() -> None:
    batch = [scored([0.5, 0.5], id="a"), scored([0.0, 0.0], id="b", solved=0.0)]
    a, b = assign_credit(batch, None, TreeConfig(gamma=1.0))
    assert (a.advantages, b.advantages) == (pytest.approx((1.0, 1.0)), pytest.approx((-1.0, -1.0)))


def test_trajectories_that_are_the_same_to_the_last_token_cannot_be_told_apart() -> None:
    """A noisy reward is no defect of the estimator."""
    steps = [step((1, 2), (3,))]
    batch = [scored([1.0], id="a", steps=steps), scored([0.0], id="b", steps=steps, solved=0.0)]
    assert [one.advantages for one in assign_credit(batch, None, TreeConfig())] == [(None,), (None,)]


def test_monte_carlo_credits_a_step_with_what_it_gained() -> None:
    # VinePPO: of four continuations 1, 3 and 2 solve the task from before each step; the last step solves it.
    values = prefix_values([(1, 0, 0, 0), (1, 1, 1, 0), (0, 1, 1, 0)])
    assert values == [0.25, 0.75, 0.5]
    (one,) = assign_credit([scored([0.0, 0.0, 1.0])], [values], MonteCarloConfig(whiten=PLAIN))
    assert one.advantages == pytest.approx((0.5, -0.25, 0.5))


def test_beside_a_state_whose_continuations_were_all_lost_no_step_has_credit() -> None:
    values = prefix_values([(0.5,), (), (0.25, 0.75), (1.0,)])
    assert values == [0.5, None, 0.5, 1.0]
    (one,) = assign_credit([scored([0.0, 0.0, 0.25, 1.0])], [values], MonteCarloConfig(whiten=PLAIN))
    # The value of the second state is in the credit of the first step and of the second; 0.25 + 1 − 0.5, 1 − 1.
    assert one.advantages == pytest.approx((None, None, 0.75, 0.0))


def test_a_continuation_earns_what_comes_after_its_prefix_discounted_from_there() -> None:
    played = scored([8.0, 0.5, 1.0, 2.0])
    assert [return_from(played, step, 0.5) for step in range(4)] == [8.75, 1.5, 2.0, 2.0]
    # An abstained step is taken out and decays nothing.
    assert return_from(scored([8.0, None, 1.0, 2.0]), 1, 0.5) == 2.0
    assert return_from(scored([8.0, None]), 1, 0.5) is None


def test_a_continuation_that_infrastructure_cut_has_no_return() -> None:
    cut = scored([0.5, 1.0, None], stop=StopReason.INFRASTRUCTURE)
    assert [return_from(cut, step, 1.0) for step in range(3)] == [None, None, None]


def test_leave_one_out_reads_the_replays_and_not_the_rewards() -> None:
    calls = [step((1,), (2,), does=CALL), step((3,), (4,), does=CALL), step((5,), (6,))]
    good = scored([0.9, 0.9, 0.9], id="a", steps=calls, contributions=[1.0, 0.0, None])
    bad = scored([0.9, 0.9, 0.9], id="b", steps=calls, solved=0.0, contributions=[0.0, -1.0, None])
    a, b = assign_credit([good, bad], None, LeaveOneOutConfig(whiten=PLAIN))
    # An answer is worth the outcome: without it there is none.
    assert (a.advantages, b.advantages) == ((1.0, 0.0, 1.0), (0.0, -1.0, 0.0))


def test_leave_one_out_pays_the_outcome_for_the_final_answer_and_for_no_other() -> None:
    """In a dialogue a turn before it is an answer too; that the last one abstained does not make it the last."""
    talk = [step((1,), (2,)), step((3,), (4,))]
    batch = [scored([0.0, None], id="a", steps=talk, contributions=[0.25, None])]
    batch.append(scored([0.0, 0.0], id="b", steps=talk, solved=0.0, contributions=[0.5, None]))
    a, b = assign_credit(batch, None, LeaveOneOutConfig(whiten=PLAIN))
    assert (a.advantages, b.advantages) == ((0.25, None), (0.5, 0.0))


def test_ppo_on_outcomes_sees_no_step_reward() -> None:
    steps = [step((1,), (2,)), step((3,), (4,))]
    config = PpoOutcomeConfig(gamma=0.5, lam=1.0, whiten=PLAIN)
    found = [
        assign_credit([scored([r, 0.0], steps=steps)], [[0.25, 0.75]], config)[0].advantages for r in (0.0, 0.9, -0.9)
    ]
    assert found == [(0.25, 0.25)] * 3


def outcomes(*solved: float, length: int = 1) -> list[Any]:
    return [scored([0.9] * length, id=str(i), solved=outcome) for i, outcome in enumerate(solved)]


def test_grpo_normalises_the_outcome_over_the_group() -> None:
    found = assign_credit(outcomes(1.0, 0.0, 0.0, 0.0, length=2), None, GrpoConfig())
    # Mean ¼, deviation √3/4.
    assert found[0].advantages == pytest.approx((3**0.5, 3**0.5))
    assert found[1].advantages == pytest.approx((-(3**-0.5), -(3**-0.5)))


def test_rloo_leaves_the_trajectory_itself_out_of_its_baseline() -> None:
    found = assign_credit(outcomes(1.0, 0.0, 0.0, 0.5), None, RlooConfig())
    assert [one.advantages[0] for one in found] == pytest.approx([5 / 6, -0.5, -0.5, 1 / 6])


def test_reinforce_pp_whitens_over_trajectories_however_long_they_are() -> None:
    found = assign_credit([*outcomes(1.0, length=5), *outcomes(0.0, length=1)], None, ReinforcePpConfig())
    assert [set(one.advantages) for one in found] == [{1.0}, {-1.0}]


def test_rejection_sampling_imitates_what_was_solved_and_nothing_else() -> None:
    found = assign_credit(outcomes(1.0, 0.5, 0.0, length=2), None, RftConfig())
    assert [one.advantages for one in found] == [(1.0, 1.0), (None, None), (None, None)]


def test_eto_counts_the_pairs_that_a_trajectory_wins_and_loses() -> None:
    found = assign_credit(outcomes(1.0, 0.0, 1.0, 0.5, 0.0, length=2), None, EtoConfig())
    # The worse ones meet the best in turn: 0 beats 1 and 4, and 2 beats 3.
    assert [one.advantages[0] for one in found] == [2.0, -1.0, 1.0, -1.0, -1.0]
    assert found[0].returns == (1.0, 1.0)


def test_eto_has_no_credit_for_whom_it_compares_with_nobody() -> None:
    nothing = scored([None, None], id="abstained", solved=0.0)
    batch = [*outcomes(1.0, 0.0), nothing, scored([0.9], id="unknown", solved=None)]
    found = assign_credit(batch, None, EtoConfig())
    assert [one.advantages for one in found] == [(1.0,), (-1.0,), (None, None), (None,)]


def test_archer_gives_a_step_what_its_action_is_worth_beyond_its_state() -> None:
    (one,) = assign_credit([scored([0.0, None, 1.0])], [(0.5, 0.75, 9.0, 9.0, 0.25, 0.0)], ArcherConfig())
    assert one.advantages == (0.25, None, -0.25)
    assert one.returns == (None, None, None)
