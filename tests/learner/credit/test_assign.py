"""What holds for every estimator. Several tests guard against defects of the published StepTool code and of SkyRL."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from learner.credit import CreditedTrajectory, TokenCredit, assign_credit, summarise, uniform_groups
from learner.credit.config import (
    BilevelGaeConfig,
    GrpoConfig,
    LeaveOneOutConfig,
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
)
from tests.learner.builders import CALL, scored, step
from tests.learner.credit.estimators import ALL, ON_STEPS, credit, kind, numbers, solved_and_failed, states
from tool_sandbox.tasks import StopReason


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_the_last_reward_is_not_multiplied_by_zero(config: Any) -> None:
    """steptool.md §1 defect 1: the published code scales r_t by T − t − 1, so IsSolved never trains."""
    good, bad = credit(solved_and_failed(), config)
    if isinstance(config, RftConfig):
        assert (good.advantages, bad.advantages) == ((1.0, 1.0), (None, None))
    elif isinstance(config, MtGrpoConfig | StepGaeConfig):
        assert numbers(good)[-1] > 0 > numbers(bad)[-1]
    else:
        assert numbers(good)[-1] > numbers(bad)[-1]
    assert len(numbers(good)) == 2


@pytest.mark.parametrize("config", [c for c in ALL if c.states is None], ids=kind)
def test_no_step_of_an_informative_group_has_an_advantage_of_zero(config: Any) -> None:
    """SkyRL PR 1507: every step but the last, (N − 1) of N, had zero advantage, and no metric said so."""
    if isinstance(config, MtGrpoConfig):
        config = MtGrpoConfig(turn_weight=0.5)
    found = credit(solved_and_failed(steps=4), config)
    assert all(number != 0.0 for one in found for number in numbers(one))
    assert [len(numbers(one)) for one in found] == ([4, 0] if isinstance(config, RftConfig) else [4, 4])
    assert summarise(found).zero == 0


LOST = step((6, 6), (6, 6))


def longer(observation: int) -> list[Any]:
    def steps(said: int) -> list[Any]:
        return [step((1, 2), (3,)), step((9,) * observation, (said, 5)), step((8,), (6,))]

    a = scored([0.2, 0.4, 1.0], id="a", steps=steps(4), contributions=[1.0, 0.5, 0.0])
    b = scored([0.2, 0.0, 0.0], id="b", steps=steps(7), solved=0.0, contributions=[0.0, 0.0, 0.0])
    return [a, b]


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_a_longer_observation_changes_no_credit(config: Any) -> None:
    """steptool.md §1 defect 2: GAE through observation tokens decays to 8e-11 over 300 of them."""
    short, padded = (credit(longer(n), config) for n in (1, 300))
    assert [one.advantages for one in short] == [one.advantages for one in padded]
    assert [one.returns for one in short] == [one.returns for one in padded]
    assert [one.tokens for one in short] == [one.tokens for one in padded]


def test_credit_crosses_an_observation_of_three_hundred_tokens_undiminished() -> None:
    """Over tokens too: only the 2 action tokens between the first and the reward discount it."""
    steps = [step((1,), (2,)), step((9,) * 300, (3, 4))]
    config = TokenGaeConfig(gamma=0.5, lam=1.0, whiten=NoWhitening())
    (one,) = assign_credit([scored([0.0, 1.0], steps=steps)], [[0.0] * 3], config)
    assert one.tokens is not None
    assert one.tokens.advantages == ((0.25,), (0.5, 1.0))


@pytest.mark.parametrize("config", [c for c in ON_STEPS if c.kind != "mt_grpo"], ids=kind)
def test_a_useless_middle_step_gets_less_than_a_useful_one(config: Any) -> None:
    batch = [scored([0.5, 0.5, 1.0], id="useful"), scored([0.5, -0.1, 1.0], id="useless")]
    useful, useless = credit(batch, config)
    assert numbers(useful)[1] > numbers(useless)[1]


@pytest.mark.parametrize("config", [GrpoConfig(), RlooConfig(), ReinforcePpConfig()], ids=kind)
def test_one_number_per_trajectory_cannot_tell_them_apart_where_steps_can(config: Any) -> None:
    batch = [scored([0.5, 0.5, 1.0], id="useful"), scored([0.5, -0.1, 1.0], id="useless")]
    assert summarise(credit(batch, config)).is_uniform


@pytest.mark.parametrize("config", [c for c in ALL if hasattr(c, "uniform")], ids=kind)
def test_groups_do_not_touch_each_other(config: Any) -> None:
    first = [scored([0.0, 1.0], id="a", group="g"), scored([0.0, 0.0], id="b", group="g", solved=0.0)]
    other = [scored([9.0, 3.0], id="c", group="h"), scored([5.0], id="d", group="h", solved=0.0)]
    alone, together = credit(first, config), credit([other[0], *first, other[1]], config)[1:3]
    assert [one.advantages for one in alone] == [one.advantages for one in together]


BY_INDEX = ("step_returns", "step_rloo", "mt_grpo")
"""Those that compare steps of one index: a step more moves all that come after it."""


@pytest.mark.parametrize("config", [c for c in ALL if c.kind not in BY_INDEX], ids=kind)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_abstained_step_more_changes_no_other_steps_advantage(config: Any, at: int) -> None:
    other = scored([0.1, 0.0], id="b", solved=0.0, contributions=[0.0, 0.0])
    rewards, told = [0.3, 1.0], [1.0, 0.5]
    steps = [step((1, 2, 3), (4, 9), does=CALL), step((7, 1), (4, 9), does=CALL)]
    plain = [scored(rewards, id="a", contributions=told, steps=steps), other]
    lost = [*rewards[:at], None, *rewards[at:]], [*told[:at], None, *told[at:]], [*steps[:at], LOST, *steps[at:]]
    more = [scored(lost[0], id="a", contributions=lost[1], steps=lost[2]), other]
    values = values_with(plain, config, {0: 0.4, 1: 0.6}), values_with(more, config, {at: 7.0} | _around(at))
    before = assign_credit(plain, values[0], config)
    after = assign_credit(more, values[1], config)
    assert (after[0].advantages[at], after[0].returns[at]) == (None, None)
    assert numbers(after[0]) == numbers(before[0])
    assert after[1].advantages == before[1].advantages


ADDING_UP = [
    type(config)(
        **{name: 1.0 for name in ("gamma", "lam", "token_lam") if name in type(config).model_fields},
        whiten={"kind": "steps"} if config.kind == "step_returns" else {"kind": "none"},
    )
    for config in ALL
    if config.kind not in ("eto", "monte_carlo")
]
"""With returns that are plain sums, and nothing compared over the whole batch. Of the others one takes no such setting,
and the other takes the value of the very next state."""


@pytest.mark.parametrize("config", ADDING_UP, ids=kind)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_abstention_in_the_place_of_a_reward_of_zero_changes_nothing_at_any_other_step(config: Any, at: int) -> None:
    """The return is the same, and a step keeps its index, whatever became of those before it."""

    def batch(*fourth: float | None) -> list[Any]:
        rewards = {"a": (0.5, 0.5, 1.0), "b": (0.5, 0.1, 0.0), "c": (0.2, 0.4, 0.0), "d": fourth}
        return [
            scored(given, id=name, solved=float(name == "a"), steps=_calls(name), contributions=[0.5] * 3)
            for name, given in rewards.items()
        ]

    abstained = [None if t == at else 0.0 for t in range(3)]
    before, after = (credit(some, config) for some in (batch(0.0, 0.0, 0.0), batch(*abstained)))
    assert after[3].advantages[at] is None
    for one, other in zip(before, after, strict=True):
        for t in {0, 1, 2} - {at}:
            assert other.advantages[t] == pytest.approx(one.advantages[t])


def _calls(name: str) -> list[Any]:
    return [step((1, 2, 3) if not t else (7, t), (4, ord(name)), does=CALL) for t in range(3)]


def _around(at: int) -> dict[int, float]:
    kept = [t for t in range(3) if t != at]
    return {kept[0]: 0.4, kept[1]: 0.6}


def values_with(batch: list[Any], config: Any, first: dict[int, float]) -> list[list[float]] | None:
    """Those of the first trajectory by step; 0.2 everywhere in the others."""
    if config.states is None:
        return None
    each = states(batch[0], config) // len(batch[0].trajectory.steps)
    # The second number of a step is more than the first, so that an action may be worth more than its state.
    mine = [first[t] + 0.1 * k for t in range(len(batch[0].trajectory.steps)) for k in range(each)]
    return [mine, *([0.2] * states(one, config) for one in batch[1:])]


WITH_A_RETURN = [c for c in ALL if c.states is None and c.kind != "leave_one_out"]


@pytest.mark.parametrize("config", WITH_A_RETURN, ids=kind)
def test_an_episode_that_infrastructure_cut_is_not_punished_where_nobody_knows_how_it_would_have_ended(
    config: Any,
) -> None:
    cut = scored([0.5, None], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    rest = [scored([0.5, 1.0], id="a"), scored([0.5, 0.0], id="b", solved=0.0)]
    found = credit([cut, *rest], config)
    assert found[0].advantages == found[0].returns == (None, None)
    # Nor does it stand in the statistics of the others.
    assert [one.advantages for one in found[1:]] == [one.advantages for one in credit(rest, config)]


@pytest.mark.parametrize("config", [c for c in ALL if c.states is not None and c.kind != "ppo_outcome"], ids=kind)
def test_an_episode_that_infrastructure_cut_goes_on_from_the_value_where_it_was_cut(config: Any) -> None:
    cut = scored([0.5, None], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    batch = [cut, scored([0.5, 1.0], id="a"), scored([0.5, 0.0], id="b", solved=0.0)]
    found = credit(batch, config.model_copy(update={"gamma": 1.0}), 0.5)
    # Before whitening the last reward is 1 and 0 for the whole ones, and V = ½ for the one that was cut.
    assert numbers(found[1])[0] >= numbers(found[0])[0] >= numbers(found[2])[0]
    assert len(numbers(found[0])) == 1


def test_ppo_on_outcomes_credits_a_cut_episode_with_the_value_where_it_was_cut() -> None:
    cut = scored([0.5, None], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    config = PpoOutcomeConfig(gamma=1.0, lam=1.0, whiten=NoWhitening())
    (one,) = assign_credit([cut], [[0.2, 0.2, 0.8, 0.8]], config)
    # Nothing was earned on the way, and the state that was reached is worth 0.8 instead of 0.2.
    assert one.advantages == pytest.approx((0.6, None))


def similar_triple() -> list[Any]:
    """Second observations of which the first shares 19 of 20 tokens with the second, and so the second with the third;
    the ends share 18."""
    seen = {"x": (8,) * 20, "y": (8,) * 19 + (9,), "z": (8,) * 18 + (6, 9)}
    last = {"x": 0.0, "y": 0.5, "z": 1.0}
    return [
        scored([0.2, last[name]], id=name, group="similar", steps=[step((1,), (ord(name),)), step(ids, (2, 3))])
        for name, ids in seen.items()
    ]


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_the_order_of_the_batch_changes_nothing(config: Any) -> None:
    third = scored([0.3, 0.1], id="third", group="h", contributions=[0.0, 1.0])
    fourth = scored([0.0, 0.9], id="fourth", group="h", solved=0.0, contributions=[0.0, 0.0])
    batch = [*longer(3), third, fourth, *similar_triple()]
    straight = credit(batch, config)
    for order in (range(len(batch))[::-1], [0, 1, 2, 3, 4, 6, 5], [6, 4, 5, 3, 1, 2, 0]):
        for at, other in zip(order, credit([batch[i] for i in order], config), strict=True):
            assert [a is None for a in straight[at].advantages] == [a is None for a in other.advantages]
            assert numbers(straight[at]) == pytest.approx(numbers(other))


def equal_twins() -> list[Any]:
    return [scored([0.5, 1.0], id=name, contributions=[0.5, 1.0]) for name in ("a", "b")]


@pytest.mark.parametrize("config", [c for c in ALL if hasattr(c, "uniform")], ids=kind)
def test_a_uniform_group_is_reported_and_has_no_credit(config: Any) -> None:
    found = credit(equal_twins(), config)
    summary = summarise(found)
    assert [numbers(one) for one in found] == [[], []]
    assert (summary.groups, summary.uniform_groups, summary.uncredited, summary.zero) == (1, 1, 4, 0)
    assert uniform_groups(found) == ["g-0"]
    assert summary.metrics()["credit_uniform_groups"] == 1.0


@pytest.mark.parametrize("config", [c for c in ALL if c.relative], ids=kind)
def test_whitening_over_the_batch_invents_no_credit_for_a_uniform_group(config: Any) -> None:
    """A difference of zero, less the mean of the batch, would not be zero any more."""
    config = type(config)(whiten={"kind": "batch"})
    silent = [scored([0.5, 1.0], id=name, group="silent") for name in "xy"]
    loud = [scored([0.0, 1.0], id="a"), scored([0.0, 0.0], id="b", solved=0.0), scored([0.0, 0.0], id="c", solved=0.0)]
    both, alone = credit([*silent, *loud], config), credit(loud, config)
    assert uniform_groups(both) == ["silent"]
    assert [one.advantages for one in both[2:]] == [one.advantages for one in alone]


def test_a_critic_learns_from_a_group_that_teaches_the_policy_nothing() -> None:
    found = assign_credit([scored([1.0, 1.0])], [(2.0, 1.0)], StepGaeConfig(gamma=1.0, lam=1.0))
    assert found[0].advantages == (None, None)
    assert found[0].returns == (2.0, 1.0)


def test_a_group_of_one_teaches_nothing_where_trajectories_are_compared() -> None:
    for config in (GrpoConfig(), RlooConfig(), StepRlooConfig(), MtGrpoConfig()):
        assert uniform_groups(credit([scored([0.0, 1.0])], config)) == ["g-0"], config.kind


def test_a_partial_group_is_compared_with_what_there_is_of_it() -> None:
    lost = scored([None], id="lost", solved=None, stop=StopReason.INFRASTRUCTURE)
    batch = [scored([1.0], id="a"), scored([0.0], id="b", solved=0.0), lost]
    a, b, c = credit(batch, RlooConfig())
    assert (a.advantages, b.advantages, c.advantages) == ((1.0,), (-1.0,), (None,))


def test_credit_that_is_not_finite_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        CreditedTrajectory(scored([1.0]), (float("nan"),), (1.0,))
    broken = TokenCredit(((0.0, float("inf")),), ((0.0, 0.0),))
    with pytest.raises(ValueError, match="expected finite numbers"):
        CreditedTrajectory(scored([1.0]), (1.0,), (1.0,), broken)


def test_credit_for_another_number_of_tokens_cannot_be_built() -> None:
    with pytest.raises(ValueError, match=r"credit for \[1\] action tokens of steps that have \[2\]"):
        CreditedTrajectory(scored([1.0]), (1.0,), (1.0,), TokenCredit(((1.0,),), ((1.0, 1.0),)))


@pytest.mark.parametrize("config", [c for c in ALL if c.states is not None], ids=kind)
def test_an_estimator_without_the_values_that_it_reads_says_what_it_needs(config: Any) -> None:
    with pytest.raises(ValueError, match=f"{config.kind}: no values; expected V"):
        assign_credit([scored([1.0])], None, config)


def test_values_for_another_number_of_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \[1\] for trajectories of \[2\] tokens"):
        assign_credit([scored([1.0])], [[0.5]], BilevelGaeConfig())
    with pytest.raises(ValueError, match=r"lengths \[2\] for trajectories of \[1\] steps"):
        assign_credit([scored([1.0])], [[0.5, 0.5]], StepGaeConfig())


def test_an_unknown_setting_is_rejected() -> None:
    with pytest.raises(ValidationError, match="lambda"):
        StepGaeConfig.model_validate({"kind": "step_gae", "lambda": 0.9})


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_an_episode_without_a_step_changes_nobodys_credit(config: Any) -> None:
    """A prompt that overflowed the context has an outcome. Records have no row of it, and a replay must do the same."""
    overflowed = [
        scored([], id=group, group=group, solved=0.0, steps=[], stop=StopReason.CONTEXT_OVERFLOW) for group in "gh"
    ]
    rest = [scored([0.5, 1.0], id="a", group="g"), scored([0.5, 0.0], id="b", group="g", solved=0.0)]
    found = credit([overflowed[0], *rest, overflowed[1]], config)
    assert [one.advantages for one in (found[0], found[3])] == [(), ()]
    assert found[1:3] == credit(rest, config)


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_a_batch_of_lost_episodes_has_no_credit_and_is_no_error(config: Any) -> None:
    lost = scored([], id="lost", solved=None, steps=[], stop=StopReason.INFRASTRUCTURE)
    assert [one.advantages for one in credit([lost], config)] == [()]


def test_the_outcome_is_mixed_in_with_its_weight() -> None:
    batch = [scored([0.4, 0.0], id="a"), scored([0.2, 0.0], id="b", solved=0.0)]
    config = StepReturnsConfig(gamma=1.0, whiten=NoWhitening(), outcome_weight=2.0)
    a, b = credit(batch, config)
    # Outcomes 1 and 0 normalise to ±1, twice that is added to the returns (.4, 0) and (.2, 0).
    assert a.advantages == pytest.approx((2.4, 2.0))
    assert b.advantages == pytest.approx((-1.8, -2.0))


def test_a_trajectory_without_a_known_outcome_keeps_the_credit_of_its_steps() -> None:
    batch = [scored([0.4, 0.0], id="a"), scored([0.2, 0.0], id="b", solved=0.0), scored([0.3], id="c", solved=None)]
    found = credit(batch, StepReturnsConfig(gamma=1.0, whiten=NoWhitening(), outcome_weight=2.0))
    assert found[2].advantages == pytest.approx((0.3,))


def test_advantages_are_clipped_after_whitening() -> None:
    batch = [scored([float(reward)], id=str(reward)) for reward in (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)]
    # Mean 1, deviation 3: the outlier is at +3, the others at −1/3.
    plain, clipped = (credit(batch, StepReinforcePpConfig(clip=clip)) for clip in (None, 0.5))
    assert (plain[9].advantages, plain[0].advantages) == (pytest.approx((3.0,)), pytest.approx((-1 / 3,)))
    assert (clipped[9].advantages, clipped[0].advantages) == ((0.5,), pytest.approx((-1 / 3,)))


def test_whitening_may_be_taken_over_the_steps_the_group_or_the_batch() -> None:
    batch = [
        scored([4.0, 3.0], id="a"),
        scored([0.0, 1.0], id="b"),
        scored([10.0], id="c", group="h"),
        scored([6.0], id="d", group="h"),
    ]

    def first(whiten: str) -> list[float]:
        config = StepReturnsConfig.model_validate({"gamma": 0.0, "whiten": {"kind": whiten}})
        return [numbers(one)[0] for one in credit(batch, config)]

    assert first("none") == [4.0, 0.0, 10.0, 6.0]
    assert first("steps") == [1.0, -1.0, 1.0, -1.0]
    # Group g-0: 4, 3, 0, 1 with mean 2 and variance 2.5. The batch: with 10 and 6, mean 4 and variance 11.
    assert first("group") == pytest.approx([2 / 2.5**0.5, -2 / 2.5**0.5, 1.0, -1.0])
    assert first("batch") == pytest.approx([0.0, -4 / 11**0.5, 6 / 11**0.5, 2 / 11**0.5])


def test_a_step_that_only_one_trajectory_reached_is_compared_with_its_group() -> None:
    batch = [scored([0.0, 1.0], id="long"), scored([0.0], id="short", solved=0.0)]
    long, _ = credit(batch, StepReturnsConfig(gamma=1.0))
    # returns [1, 1] and [0]: the pooled mean is 2/3 and the deviation √2/3
    assert long.advantages[1] == pytest.approx((1 / 3) / (2**0.5 / 3))


def test_a_group_that_hardly_differs_is_not_blown_up() -> None:
    a, _ = credit([scored([0.02], id="a"), scored([0.0], id="b")], StepReturnsConfig())
    assert a.advantages == pytest.approx((0.1,))


def test_a_call_that_no_replay_measured_has_no_credit() -> None:
    calls = [step((1,), (2,), does=CALL), step((3,), (4,))]
    batch = [scored([0.0, 1.0], id="a", steps=calls, contributions=[None, None])]
    batch.append(scored([0.0, 0.0], id="b", steps=calls, solved=0.0, contributions=[0.0, None]))
    a, b = credit(batch, LeaveOneOutConfig(whiten=NoWhitening()))
    assert (a.advantages, b.advantages) == ((None, 1.0), (0.0, 0.0))
    assert summarise([a, b]).uncredited == 1
