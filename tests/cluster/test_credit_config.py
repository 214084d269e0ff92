"""Credit that would do nothing is refused; what would do nothing is found out by what the estimators do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from actors.scoring import ScoredTrajectory
from actors.trajectory import Step, Trajectory
from cluster.config import RunConfig
from cluster.errors import BadConfiguration
from cluster.presets import load_config
from learner.credit import CreditedTrajectory, assign_credit, uniform_groups
from learner.credit.config import ArcherConfig, RftConfig, UtteranceCriticConfig
from learner.estimator import CreditAssigner
from learner.utterance_features import UtteranceFeatures
from tests.learner.builders import CALL, scored, step
from tests.learner.credit.estimators import ALL, kind, states

REPLAYED = ("rewards.signals.contribution.kind=leave_one_out",)
IN_REWARD = ("learner.loss.kl.kind=reference", "learner.loss.kl.place=reward")
WHITENINGS = ("none", "steps", "group", "batch")


def configured(config: Any, *overrides: str) -> RunConfig:
    chosen = [f"credit.kind={config.kind}", *(REPLAYED if config.kind == "leave_one_out" else ())]
    return load_config("tiny", [*chosen, *overrides])


def is_refused(config: Any, *overrides: str) -> bool:
    try:
        configured(config, *overrides)
    except BadConfiguration:
        return True
    return False


def played(dice: Random, name: str, group: str) -> ScoredTrajectory:
    """Three steps in states that no other trajectory comes by, nor itself twice."""
    steps: list[Step] = [step([dice.randrange(10**6)] * 2, [dice.randrange(9), 1], does=CALL) for _ in range(3)]
    rewards = [round(dice.uniform(-1, 1), 3) for _ in steps]
    worth = [dice.choice([-1.0, 0.5, 1.0]) for _ in steps]
    return scored(rewards, id=name, group=group, solved=dice.choice([0.0, 1.0]), steps=steps, contributions=worth)


def credit(batch: list[ScoredTrajectory], config: Any) -> list[CreditedTrajectory]:
    """With values that depend on the place alone, and an utterance critic that learns from this batch."""
    if isinstance(config, ArcherConfig):
        quick = config.model_copy(update={"critic": UtteranceCriticConfig(steps=3)})
        return CreditAssigner(quick, lambda *_: [], read_features=features).assign(batch)
    values = [[Random(k).uniform(-1, 1) for k in range(states(one, config))] for one in batch]
    return assign_credit(batch, None if config.states is None else values, config)


def features(trajectories: Sequence[Trajectory]) -> list[UtteranceFeatures]:
    dice = torch.Generator().manual_seed(0)
    return [UtteranceFeatures.of(torch.randn(2 * len(one.steps), 4, generator=dice).half()) for one in trajectories]


def charged(one: ScoredTrajectory, at: int) -> ScoredTrajectory:
    """As a KL in the reward would: one step has less."""
    steps = list(one.reward.steps)
    steps[at] = replace(steps[at], value=(steps[at].value or 0.0) - 0.25)
    return replace(one, reward=replace(one.reward, steps=tuple(steps)))


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_a_kl_in_the_reward_is_refused_where_the_reward_of_some_step_changes_no_advantage(config: Any) -> None:
    dice = Random(0)
    batch = [played(dice, f"t-{k}", "g-0") for k in range(4)]
    before = [one.advantages for one in credit(batch, config)]
    unread = [
        at
        for at in range(3)
        if [one.advantages for one in credit([charged(batch[0], at), *batch[1:]], config)] == before
    ]
    # The continuations of monte_carlo would not be charged with it.
    assert is_refused(config, *IN_REWARD) == (bool(unread) or config.kind == "monte_carlo")
    assert config.kind == "eto" or not is_refused(config, "learner.loss.kl.kind=reference")


@pytest.mark.parametrize(
    ("credit_kind", "message"),
    [
        ("ppo_outcome", r"is ppo_outcome, which reads no step reward: the KL would control nothing; set .* to loss"),
        ("leave_one_out", r"is leave_one_out, which reads no step reward"),
        ("mt_grpo", r"is mt_grpo, which does not read the reward of the last step: its KL would be dropped; set"),
    ],
)
def test_what_a_kl_in_the_reward_would_not_do_is_said(credit_kind: str, message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        load_config("tiny", [f"credit.kind={credit_kind}", *REPLAYED, *IN_REWARD])


@pytest.mark.parametrize("config", [c for c in ALL if c.kind not in ("eto", "rft")], ids=kind)
@pytest.mark.parametrize("whiten", WHITENINGS)
def test_groups_of_one_are_refused_where_every_one_of_them_would_be_uniform(config: Any, whiten: str) -> None:
    dice = Random(1)
    alone = [played(dice, f"t-{k}", f"g-{k}") for k in range(6)]
    chosen = type(config)(whiten={"kind": whiten})
    uniform = len(uniform_groups(credit(alone, chosen))) == len(alone)
    assert is_refused(config, "task.group_size=1", f"credit.whiten.kind={whiten}") == uniform


def test_imitation_of_what_was_solved_needs_no_group_and_takes_no_whitening() -> None:
    """Ones less their mean are zeros."""
    assert not is_refused(RftConfig(), "task.group_size=1")
    for whiten in WHITENINGS[1:]:
        with pytest.raises(BadConfiguration, match=rf"rft: whiten\.kind is {whiten}, expected none.*drop whiten"):
            load_config("tiny", ["credit.kind=rft", f"credit.whiten.kind={whiten}"])


def test_pairs_of_trajectories_need_a_second_one() -> None:
    with pytest.raises(
        BadConfiguration, match=r"task\.group_size is 1 and credit\.kind is eto, .*2 or more, or choose"
    ):
        load_config("tiny", ["credit.kind=eto", "task.group_size=1"])


def test_an_outcome_that_is_compared_with_no_other_is_refused() -> None:
    mixed = ("credit.kind=step_reinforce_pp", "credit.outcome_weight=0.5")
    with pytest.raises(BadConfiguration, match=r"group_size is 1 and credit\.outcome_weight 0\.5: .* would be zero"):
        load_config("tiny", [*mixed, "task.group_size=1"])
    assert load_config("tiny", [*mixed, "task.group_size=2"]).credit.outcome_weight == 0.5
