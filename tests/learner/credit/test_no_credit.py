"""A batch that teaches nothing because nothing differs, and one that teaches nothing because something is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from learner.credit import CreditedTrajectory, assign_credit, summarise
from learner.credit.assign import ESTIMATORS
from learner.credit.config import (
    BilevelGaeConfig,
    GigpoConfig,
    MonteCarloConfig,
    StepGaeConfig,
    StepReturnsConfig,
    StepRlooConfig,
    TokenGaeConfig,
)
from learner.errors import NoCredit
from tests.learner.builders import scored, step
from tests.learner.credit.estimators import ALL, credit, kind, solved_and_failed, states
from tool_sandbox.tasks import StopReason


def test_differing_rewards_that_would_teach_nothing_are_refused() -> None:
    batch = [scored([1.0], id="a"), scored([0.0], id="b", solved=0.0)]
    with pytest.raises(NoCredit, match="rewards differ within 1 groups"):
        assign_credit(batch, [(1.0,), (0.0,)], StepGaeConfig())


def without_numbers(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the estimator loses every advantage and goes on as if nothing had been."""
    sound = ESTIMATORS[type(config)]

    def broken(batch: Any, settings: Any) -> list[Any]:
        found = sound(batch, settings)
        return [replace(one, advantages=tuple(n and (0.0,) * len(n) for n in one.advantages)) for one in found]

    monkeypatch.setitem(cast("Any", ESTIMATORS), type(config), broken)


@pytest.mark.parametrize("config", [c for c in ALL if c.kind != "rft"], ids=kind)
def test_an_estimator_that_loses_its_numbers_is_refused_where_one_solved_the_task_and_one_did_not(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_numbers(config, monkeypatch)
    with pytest.raises(NoCredit, match="rewards differ within 1 groups"):
        credit(solved_and_failed(), config)


@pytest.mark.parametrize("config", [StepReturnsConfig(gamma=1.0), StepRlooConfig(gamma=1.0)], ids=kind)
def test_an_estimator_that_loses_its_numbers_is_refused_where_later_steps_alone_differ(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_numbers(config, monkeypatch)
    # Returns (1, 0) and (1, 1).
    with pytest.raises(NoCredit, match="rewards differ within 1 groups"):
        credit([scored([1.0, 0.0], id="a"), scored([0.0, 1.0], id="b")], config)


READ = [c.model_copy(update={"gamma": 1.0}) for c in ALL if c.states is not None]
"""Estimators that read values, with returns that are plain sums."""


def foretold(batch: list[Any], config: Any, *values: float) -> list[CreditedTrajectory]:
    """Credit where V, and Q, is the same number in all states of each trajectory."""
    read = [[value] * states(one, config) for one, value in zip(batch, values, strict=True)]
    return assign_credit(batch, read, config)


@pytest.mark.parametrize("config", READ, ids=kind)
def test_a_batch_that_is_solved_as_was_foretold_is_uniform_in_however_many_steps(config: Any) -> None:
    """At saturation every true advantage is zero."""
    batch = [scored([0.0, 1.0], id="short"), scored([0.0, 0.0, 1.0], id="long")]
    assert summarise(foretold(batch, config, 1.0, 1.0)).is_uniform


@pytest.mark.parametrize("config", READ, ids=kind)
def test_an_episode_that_was_cut_where_all_are_solved_as_was_foretold_is_no_defect(config: Any) -> None:
    cut = scored([0.0, None], id="cut", solved=None, stop=StopReason.INFRASTRUCTURE)
    assert summarise(foretold([cut, scored([0.0, 1.0], id="whole")], config, 1.0, 1.0)).is_uniform


@pytest.mark.parametrize("config", READ, ids=kind)
def test_a_critic_that_foretells_two_returns_in_one_state_is_refused(config: Any) -> None:
    batch = [scored([0.0, 1.0], id="a"), scored([0.0, 0.0], id="b", solved=0.0)]
    with pytest.raises(NoCredit, match="rewards differ within 1 groups"):
        foretold(batch, config, 1.0, 0.0)


def test_returns_from_different_states_may_differ_as_was_foretold() -> None:
    """Where the first step abstained, the second is the first that counts, and begins in another state."""
    batch = [scored([0.5, 1.0], id="a"), scored([None, 1.0], id="b")]
    for config in (StepGaeConfig(gamma=1.0), MonteCarloConfig()):
        assert summarise(assign_credit(batch, [(1.5, 1.0), (1.5, 1.0)], config)).is_uniform


@pytest.mark.parametrize("config", [TokenGaeConfig(gamma=0.5), BilevelGaeConfig(token_gamma=0.5)], ids=kind)
def test_a_longer_action_may_earn_more_where_tokens_discount_it(config: Any) -> None:
    """From the prompt, which is worth ½: two tokens to a reward of 1, or one token to a reward of ½."""
    steps = {"long": step((1, 2), (3, 4)), "short": step((1, 2), (5,))}
    batch = [scored([r], id=name, steps=[steps[name]]) for name, r in (("long", 1.0), ("short", 0.5))]
    assert summarise(assign_credit(batch, [(0.5, 1.0), (0.5,)], config)).is_uniform


def test_a_return_through_a_state_without_a_value_is_no_defect() -> None:
    """Nobody knows what the step before that state and the one after it were worth; the others did as foretold."""
    batch = [scored([0.5, 0.25, 1.0], id="a"), scored([0.5, 1.0], id="b")]
    assert summarise(assign_credit(batch, [(1.5, None, 1.0), (1.5, 1.0)], MonteCarloConfig())).is_uniform


@pytest.mark.parametrize("config", [StepReturnsConfig(gamma=1.0), StepRlooConfig(gamma=1.0)], ids=kind)
def test_steps_that_are_alike_at_each_index_are_no_defect_where_one_abstained(config: Any) -> None:
    rewards = {"a": (0.5, 1.0), "b": (0.5, 1.0), "c": (None, 1.0)}
    assert summarise(credit([scored(given, id=name) for name, given in rewards.items()], config)).is_uniform


def test_sums_that_rounding_alone_tells_apart_are_no_defect() -> None:
    batch = [scored([0.1, 0.2, 0.3], id="a"), scored([0.3, 0.2, 0.1], id="b")]
    assert sum((0.1, 0.2, 0.3)) != sum((0.3, 0.2, 0.1))
    assert summarise(credit(batch, GigpoConfig(step_weight=0.0))).is_uniform
