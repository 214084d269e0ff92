"""The critic of utterances: its temporal differences by hand, and what it learns and remembers."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from learner.credit import StateAt
from learner.credit.config import ArcherConfig, UtteranceCriticConfig
from learner.estimator import CreditAssigner
from learner.utterance_critic import UtteranceCritic
from learner.utterance_features import UtteranceFeatures
from learner.utterance_heads import Transitions, UtteranceHeads, follow, td_loss
from tests.learner.builders import scored
from tool_sandbox.tasks import StopReason

WIDTH = 4
ONE_STEP = UtteranceCriticConfig(steps=1, batch_steps=8, lr=0.01, tau=0.25)


def constant(q: Sequence[float], v: Sequence[float]) -> UtteranceHeads:
    """Networks whose twins say the same of everything."""
    heads = UtteranceHeads(WIDTH, hidden=3, seed=0)
    with torch.no_grad():
        heads.q.second_bias.copy_(torch.tensor(q).reshape(2, 1, 1))
        heads.v.second_bias.copy_(torch.tensor(v).reshape(2, 1, 1))
    return heads


def axis(*numbers: int) -> Tensor:
    """One feature vector each: as normalised ones are, of length √d."""
    return 2.0 * torch.eye(WIDTH, dtype=torch.float16)[list(numbers)]


def features(states: Sequence[int], actions: Sequence[int]) -> UtteranceFeatures:
    return UtteranceFeatures(axis(*states), axis(*actions))


def remembered(critic: UtteranceCritic) -> dict[str, Tensor]:
    return load(base64.b64decode(critic.state()["tensors"]))


def two_steps() -> Transitions:
    """Nothing is earned by the first and 1 by the second, which is the last."""
    return Transitions(axis(0, 1), axis(2, 3), axis(1, 1), torch.tensor([0.0, 1.0]), torch.tensor([False, True]))


def test_the_loss_of_a_trajectory_of_two_steps_by_hand() -> None:
    heads, targets = constant(q=(0.2, 0.4), v=(0.1, 0.0)), constant(q=(0.8, 0.6), v=(0.5, 0.3))
    # γ = ½. Q₁ → (¼, 1): (.0025 + .64)/2. Q₂ → (.15, 1): (.0625 + .36)/2. V₁ → .8: .49. V₂ → .6: .36.
    loss = td_loss(heads, targets, two_steps().in_float(), gamma=0.5)
    assert float(loss.detach()) == pytest.approx(0.32125 + 0.21125 + 0.49 + 0.36)


def test_the_gradient_of_the_loss_by_hand_reaches_the_networks_and_not_their_targets() -> None:
    heads, targets = constant(q=(0.2, 0.4), v=(0.1, 0.0)), constant(q=(0.8, 0.6), v=(0.5, 0.3))
    td_loss(heads, targets, two_steps().in_float(), gamma=0.5).backward()
    # 2·mean(Q − target): 2·(−.05 − .8)/2 and 2·(.25 − .6)/2; 2·(V − Q̄) = −1.4 and −1.2.
    slopes = [one.second_bias.grad for one in (heads.q, heads.v)]
    assert [[] if slope is None else slope.flatten().tolist() for slope in slopes] == [
        pytest.approx([-0.85, -0.35]),
        pytest.approx([-1.4, -1.2]),
    ]
    assert all(parameter.grad is None for parameter in targets.parameters())


def test_target_networks_lag() -> None:
    heads, targets = constant(q=(1.0, 1.0), v=(1.0, 1.0)), constant(q=(0.0, 0.0), v=(0.0, 0.0))
    lags: list[float] = []
    for _ in range(3):
        follow(targets, heads, tau=0.25)
        lags.append(float(targets.q.second_bias[0].detach()))
    assert lags == pytest.approx([0.25, 0.4375, 0.578125])


def test_a_batch_moves_the_networks_and_their_targets_a_part_of_the_way() -> None:
    critic = UtteranceCritic(ONE_STEP, gamma=0.5)
    critic.learn([scored([0.0, 1.0])], [features([0, 1], [2, 3])])
    tensors = remembered(critic)
    # Everything is worth 0 at first, and some step earned 1: Adam's first step is its rate. V's target is still 0.
    assert tensors["heads.q.second_bias"].flatten().tolist() == pytest.approx([0.01, 0.01], rel=1e-4)
    assert tensors["targets.q.second_bias"].flatten().tolist() == pytest.approx([0.0025, 0.0025], rel=1e-4)
    assert tensors["heads.v.second_bias"].flatten().tolist() == [0.0, 0.0]


def test_the_critic_says_what_the_lower_twin_says_v_before_q() -> None:
    critic = UtteranceCritic(ONE_STEP, gamma=0.5)
    critic.learn([scored([1.0])], [features([0], [1])])
    state = critic.state()
    tensors = {**load(base64.b64decode(state["tensors"]))}
    for name, numbers in (("q", (0.7, 0.2)), ("v", (0.1, 0.4))):
        tensors[f"heads.{name}.second"].zero_()
        tensors[f"heads.{name}.second_bias"].copy_(torch.tensor(numbers).reshape(2, 1, 1))
    critic.restore({**state, "tensors": base64.b64encode(save(tensors)).decode()})
    assert critic.values([features([0, 1], [2, 3])]) == [pytest.approx((0.1, 0.2, 0.1, 0.2))]


GOOD, BAD = 2, 3


def two_state_world() -> tuple[list[ScoredTrajectory], list[UtteranceFeatures]]:
    """Whatever is done in the first state leads to the second, where one action earns 1 and the other nothing."""
    ways = [(first, second) for first in (GOOD, BAD) for second in (GOOD, BAD)]
    batch = [scored([0.0, float(second == GOOD)], id=f"{a}-{second}") for a, second in ways]
    # An action's feature has seen its state: the sum of both axes.
    told = [UtteranceFeatures(axis(0, 1), (axis(0, 1) + axis(first, second)) / 2**0.5) for first, second in ways]
    return batch, told


def test_the_critic_learns_the_true_values_of_a_world_of_two_states() -> None:
    """A policy that tosses a coin, γ = ½: V₁ = ½ and V₀ = ¼; Q is 1 and 0 in the second state, ¼ in the first."""
    critic = UtteranceCritic(UtteranceCriticConfig(steps=400, lr=3e-3), gamma=0.5)
    batch, told = two_state_world()
    for _ in range(3):
        critic.learn(batch, told)
    for one, (v0, q0, v1, q1) in zip(batch, critic.values(told), strict=True):
        earned = one.reward.steps[1].value
        assert (v0, q0, v1, q1) == pytest.approx((0.25, 0.25, 0.5, earned), abs=0.06)


def test_an_action_that_earns_more_than_its_state_is_worth_has_an_advantage() -> None:
    batch, told = two_state_world()
    config = ArcherConfig(gamma=0.5, critic=UtteranceCriticConfig(steps=800, lr=3e-3))
    assigner = CreditAssigner(config, no_values, read_features=lambda trajectories: told)
    assigner.assign(batch)
    for one in assigner.assign(batch):
        sign = 1.0 if one.scored.reward.steps[1].value else -1.0
        assert one.advantages == pytest.approx((0.0, 0.5 * sign), abs=0.08)
    assert set(assigner.metrics()) == {"critic_td_loss", "critic_buffer_steps"}


def no_values(trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS, /) -> Any:
    raise AssertionError("only a value head reads values")


def test_an_abstained_step_is_as_if_it_had_not_been() -> None:
    with_it, without = (UtteranceCritic(ONE_STEP, gamma=0.5) for _ in range(2))
    with_it.learn([scored([0.25, None, 1.0])], [features([0, 1, 2], [3, 0, 1])])
    without.learn([scored([0.25, 1.0])], [features([0, 2], [3, 1])])
    found, expected = remembered(with_it), remembered(without)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # The first step leads to the state before the third.
    assert torch.equal(found["buffer.next_states"][0], axis(2)[0])


def test_an_episode_that_was_cut_goes_on_from_the_state_where_it_was_cut() -> None:
    critic = UtteranceCritic(ONE_STEP, gamma=0.5)
    cut = scored([0.5, None], solved=None, stop=StopReason.INFRASTRUCTURE)
    critic.learn([cut], [features([0, 1], [2, 3])])
    tensors = remembered(critic)
    assert tensors["buffer.ends"].tolist() == [False]
    assert torch.equal(tensors["buffer.next_states"], axis(1))


def test_a_cut_whose_state_nobody_read_teaches_nothing_of_its_last_step() -> None:
    critic = UtteranceCritic(ONE_STEP, gamma=0.5)
    cut = scored([0.25, 0.5], solved=None, stop=StopReason.INFRASTRUCTURE)
    critic.learn([cut], [features([0, 1], [2, 3])])
    assert remembered(critic)["buffer.rewards"].tolist() == [0.25]


def test_a_resumed_critic_learns_what_the_other_one_learns() -> None:
    config = UtteranceCriticConfig(steps=5, capacity=6)
    straight, resumed = UtteranceCritic(config, 0.9), UtteranceCritic(config, 0.9)
    batch, told = two_state_world()
    straight.learn(batch, told)
    resumed.restore(json.loads(json.dumps(straight.state())))
    assert resumed.values(told) == straight.values(told)
    for critic in (straight, resumed):
        critic.learn(batch, told)
    assert resumed.state() == straight.state()
    again = UtteranceCritic(config, 0.9)
    again.learn(batch, told)
    assert again.state() != straight.state()


def test_the_oldest_steps_leave_a_full_buffer() -> None:
    critic = UtteranceCritic(UtteranceCriticConfig(steps=1, capacity=3), gamma=0.5)
    for reward in (0.1, 0.2, 0.3):
        critic.learn([scored([reward, 1.0])], [features([0, 1], [2, 3])])
    assert critic.metrics()["critic_buffer_steps"] == 3.0
    assert remembered(critic)["buffer.rewards"].tolist() == pytest.approx([1.0, 0.3, 1.0])


def test_before_anything_was_seen_everything_is_worth_nothing() -> None:
    critic = UtteranceCritic(ONE_STEP, gamma=0.5)
    lost = scored([], steps=[], solved=None, stop=StopReason.INFRASTRUCTURE)
    critic.learn([lost], [UtteranceFeatures.of(None)])
    assert critic.values([features([0], [1]), UtteranceFeatures.of(None)]) == [(0.0, 0.0), ()]
    assert (critic.state(), critic.metrics()) == ({"batches": 1}, {})


def test_features_of_another_number_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features of \[1\] steps for trajectories of \[2\]"):
        UtteranceCritic(ONE_STEP, 0.5).learn([scored([0.0, 1.0])], [features([0], [1])])


def test_an_estimator_that_nobody_reads_features_for_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody reads the policy's hidden states"):
        CreditAssigner(ArcherConfig(), no_values)


def test_a_run_goes_on_with_the_critic_that_it_had() -> None:
    batch, told = two_state_world()
    assigner, resumed = (
        CreditAssigner(ArcherConfig(), no_values, read_features=lambda trajectories: told) for _ in range(2)
    )
    assigner.assign(batch)
    resumed.restore(json.loads(json.dumps(assigner.state())))
    assert [one.advantages for one in resumed.assign(batch)] == [one.advantages for one in assigner.assign(batch)]
