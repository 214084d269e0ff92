"""The table of methods: every line loads, and nothing but credit and rewards differs between two of them."""

from __future__ import annotations

from typing import get_args

import pytest

from cluster.batch import training_tasks
from cluster.config import RunConfig
from cluster.curve_methods import DEFAULT, METHODS, chosen_methods, method_config
from cluster.errors import BadConfiguration
from learner.config import CreditConfig
from learner.credit.config import BilevelGaeConfig
from reward_service.config import OutcomeShaping


def alike(config: RunConfig) -> RunConfig:
    """What must be equal: a method may change credit and rewards."""
    same = method_config(DEFAULT, config.seed, 2)
    return config.model_copy(update={"credit": same.credit, "rewards": same.rewards})


@pytest.mark.parametrize("method", METHODS)
def test_a_method_differs_from_the_default_in_credit_and_rewards_alone(method: str) -> None:
    config = method_config(method, 3, 2)
    assert alike(config) == method_config(DEFAULT, 3, 2)
    assert config.loop.iterations == 2


def test_no_two_methods_are_the_same() -> None:
    configs = [method_config(method, 0, 2) for method in METHODS]
    assert all(one != other for i, one in enumerate(configs) for other in configs[:i])


def test_every_estimator_has_a_curve() -> None:
    variants = set(get_args(get_args(CreditConfig)[0]))
    assert {type(method_config(method, 0, 2).credit) for method in METHODS} == variants


def test_a_seed_has_the_same_tasks_with_every_method_and_other_tasks_than_the_next_seed() -> None:
    def tasks(method: str, seed: int) -> list[str]:
        return [task.id for task in training_tasks(method_config(method, seed, 2), cursor=8)]

    assert all(tasks(method, 1) == tasks(DEFAULT, 1) for method in METHODS)
    assert not set(tasks(DEFAULT, 1)) & set(tasks(DEFAULT, 2))


def test_without_step_reward_only_the_outcome_is_rewarded_and_credit_still_goes_to_steps() -> None:
    config = method_config("without_step_reward", 0, 2)
    assert config.rewards.shaping == OutcomeShaping()
    assert config.credit == method_config(DEFAULT, 0, 2).credit


def test_without_step_optimisation_the_tokens_of_a_step_learn_from_its_own_reward_alone() -> None:
    config = method_config("without_step_optimisation_bilevel_gae", 0, 2)
    assert config.credit == BilevelGaeConfig(gamma=0.0, token_gamma=0.99, token_lam=0.95)
    assert config.rewards == method_config(DEFAULT, 0, 2).rewards


def test_methods_come_in_the_order_of_the_table_whatever_was_asked_for_first() -> None:
    assert chosen_methods(["rft", "step_gae"]) == ("step_gae", "rft")
    assert chosen_methods([]) == tuple(METHODS)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(BadConfiguration, match=r"methods \['step_gea'\]: not known; expected some of step_gae, "):
        chosen_methods(["step_gae", "step_gea"])
    with pytest.raises(BadConfiguration, match=r"method 'step_gea': not known"):
        method_config("step_gea", 0, 2)
