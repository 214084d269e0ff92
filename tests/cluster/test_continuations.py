"""Continuations from the states of trajectories, in a world where what they earn is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from actors.episode import EpisodeRequest
from actors.scoring import ScoredTrajectory
from actors.trajectory import Step, Trajectory
from cluster.config import RunConfig
from cluster.continuations import Continuations, keep_continuations, recorded_continuations
from cluster.errors import BadConfiguration, Stopped
from cluster.interrupt import StopFlag
from cluster.run_directory import RunDirectory
from reward_service.rewards import StepReward, TrajectoryReward
from tests.cluster.builders import FakeRun, answer_step, call_step, episode, small_config, task
from tool_sandbox.tasks import StopReason

MONTE_CARLO = ("credit.kind=monte_carlo", "credit.continuations=2", "credit.whiten.kind=none")
HALVED = (*MONTE_CARLO, "credit.gamma=0.5")


def trajectory(id: str, *steps: Step, group: str = "g-0") -> Trajectory:
    return Trajectory(id, group, task(), steps, StopReason.ANSWERED)


def number_of(request: EpisodeRequest) -> int:
    return int(request.id[-2:])


class World:
    """After a state comes a call and then an answer, in three tokens each; the first of two continuations is solved."""

    def __init__(self, is_lost: Callable[[EpisodeRequest], bool] = lambda request: False) -> None:
        self.asked: list[EpisodeRequest] = []
        self.labels: set[str] = set()
        self.warnings: list[str] = []
        self._is_lost = is_lost

    def play(self, requests: Sequence[EpisodeRequest], label: str) -> list[ScoredTrajectory]:
        self.asked += requests
        self.labels.add(label)
        return [self._one(request) for request in requests]

    def over(self, config: RunConfig) -> Continuations:
        return Continuations(config, self.play, self.warnings.append)

    def _one(self, request: EpisodeRequest) -> ScoredTrajectory:
        assert request.prefix is not None
        steps = (*request.prefix.steps, call_step(tokens=3), answer_step(tokens=3))
        if self._is_lost(request):
            cut = Trajectory(request.id, request.group, request.task, steps[:-1], StopReason.INFRASTRUCTURE)
            nothing = (StepReward(0.25, {}),) * len(cut.steps)
            return ScoredTrajectory(cut, TrajectoryReward(request.id, nothing, None, "v1"))
        return episode(steps, 1.0 - number_of(request) % 2, id=request.id, group=request.group)


SHORT = trajectory("t-0", call_step(tokens=2), answer_step())
LONG = trajectory("t-1", call_step(tokens=4), call_step(tokens=5), answer_step())


def test_every_state_has_the_discounted_returns_of_its_continuations() -> None:
    # The call earns nothing and the answer 1, one step later: half of it, from whichever state.
    assert World().over(small_config(*HALVED)).read([SHORT, LONG], 2) == [[[0.5, 0.0]] * 2, [[0.5, 0.0]] * 3]


def test_rewards_before_the_state_do_not_count() -> None:
    def play(requests: Sequence[EpisodeRequest], label: str) -> list[ScoredTrajectory]:
        rewards = [StepReward(value, {}) for value in (8.0, 0.5, 1.0)]
        steps = [call_step(), call_step(), answer_step()]
        return [episode(steps, 1.0, rewards=rewards, id=request.id) for request in requests]

    earned = Continuations(small_config(*HALVED), play, pytest.fail).read([LONG], 1)
    # 8 + ½·½ + ¼·1, then ½ + ½·1, then 1.
    assert earned == [[[8.5], [1.0], [1.0]]]


def test_states_of_a_group_with_the_same_tokens_are_played_from_once() -> None:
    world = World()
    other = trajectory("t-2", *SHORT.steps, group="g-1")
    twin = trajectory("t-3", *SHORT.steps)
    earned = world.over(small_config(*MONTE_CARLO)).read([SHORT, LONG, other, twin], 2)
    assert earned[0] == earned[3]
    # The prompt of each group, and after each different first call; the long one has one state more.
    assert [request.id for request in world.asked[::2]] == [
        *("t-0@0.0/00", "t-0@1.0/00"),
        *("t-1@1.0/00", "t-1@2.0/00"),
        *("t-2@0.0/00", "t-2@1.0/00"),
    ]
    assert len(world.asked) == 12


def test_a_continuation_is_asked_for_with_the_recorded_tokens_and_the_sampling_of_training() -> None:
    world = World()
    config = small_config(*MONTE_CARLO)
    world.over(config).read([LONG], 1)
    ids, ends = list(LONG.token_ids()), [3, 3 + 4 + 3, 3 + 4 + 3 + 5 + 1]
    prefixes = [request.prefix for request in world.asked]
    assert [prefix and prefix.token_ids for prefix in prefixes] == [tuple(ids[:end]) for end in ends]
    assert [prefix and prefix.steps for prefix in prefixes] == [LONG.steps[:n] for n in range(3)]
    sampling = config.rollout.sampling
    assert all(request.task == LONG.task for request in world.asked)
    assert {(one.temperature, one.max_turn_tokens, one.group, one.seed) for one in world.asked} == {
        (sampling.temperature, sampling.max_turn_tokens, "g-0", None)
    }
    assert world.labels == {"continuations"}


def test_only_a_deterministic_run_seeds_its_continuations_and_no_two_alike() -> None:
    world, again = World(), World()
    fixed = small_config(*MONTE_CARLO, "deterministic=true")
    world.over(fixed).read([SHORT, LONG], 2)
    again.over(fixed).read([SHORT, LONG], 2)
    seeds = [request.seed for request in world.asked]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds) == 8
    assert seeds == [request.seed for request in again.asked]


def test_what_was_sampled_is_counted_without_the_prefixes() -> None:
    continuations = World().over(small_config(*MONTE_CARLO))
    continuations.read([SHORT, LONG], 2)
    newest = continuations.newest
    # The prompt, one more state of the short one and two more of the long one, twice each; six tokens each time.
    assert (newest.episodes, newest.action_tokens, newest.lost) == (8, 8 * 6, 0)


def test_a_continuation_that_infrastructure_cut_is_played_again_under_another_name() -> None:
    world = World(is_lost=lambda request: request.id == "t-0@1.0/00")
    continuations = world.over(small_config(*HALVED))
    assert continuations.read([SHORT], 2) == [[[0.5, 0.0], [0.0, 0.5]]]
    assert [request.id for request in world.asked[4:]] == ["t-0@1.1/00"]
    # The lost one had sampled its call.
    assert (continuations.newest.episodes, continuations.newest.action_tokens) == (5, 4 * 6 + 3)
    assert (continuations.newest.lost, world.warnings) == (0, [])


def test_a_continuation_that_is_lost_twice_is_left_out_and_is_no_return_of_zero() -> None:
    world = World(is_lost=lambda request: "@1" in request.id and number_of(request) == 1)
    continuations = world.over(small_config(*HALVED))
    assert continuations.read([SHORT], 2) == [[[0.5, 0.0], [0.5]]]
    assert (continuations.newest.lost, world.warnings) == (1, [])


def test_a_state_without_any_return_is_told() -> None:
    world = World(is_lost=lambda request: "@1" in request.id)
    continuations = world.over(small_config(*HALVED))
    assert continuations.read([SHORT], 2) == [[[0.5, 0.0], []]]
    assert continuations.newest.lost == 2
    assert len(world.warnings) == 1
    assert "none from 1 of 2 states came to an end" in world.warnings[0]


def test_what_was_kept_is_read_again_to_the_last_bit_and_by_trajectory(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    keep_continuations(directory, 1, {"t-0": [[0.1 + 0.2, -1.0], []]})
    keep_continuations(directory, 2, {"t-1": [[0.5]]})
    read = recorded_continuations(directory, [1, 2])
    assert read([trajectory("t-1", answer_step()), SHORT], 9) == [[[0.5]], [[0.1 + 0.2, -1.0], []]]
    with pytest.raises(BadConfiguration, match=r"continuations/00003\.json: not there"):
        recorded_continuations(directory, [2, 3])


def solved_after_the_call(request: EpisodeRequest) -> float:
    """From the prompt every other continuation is solved, after the call all are; of each pair the second episode."""
    return 1.0 if "@1" in request.id else float(int(request.id[-1]) % 2)


def test_a_run_credits_steps_with_what_continuations_say_that_they_gained(tmp_path: Path) -> None:
    run = FakeRun(small_config(*MONTE_CARLO, "loop.iterations=1"), tmp_path / "run", outcome=solved_after_the_call)
    run.trainer.run()
    # Two groups of two episodes, which share both of their states: two continuations from each.
    assert [entry for entry in run.log if entry.startswith("play")] == ["play 6", "play 4", "play 8", "play 6"]
    # V is ½ before the call and 1 after it: the call gained ½; the wrong answer lost 1, the right one gained nothing.
    assert [one.advantages for one in run.learner.seen] == [(0.5, -1.0), (0.5, 0.0)] * 2
    [record] = run.directory.read_metrics()
    assert record["action_tokens"] == 4 * 4
    # From the prompt four tokens each, after the call two.
    assert (record["continuation_episodes"], record["continuation_tokens"]) == (8, 4 * 4 + 4 * 2)
    assert (record["continuations_lost"], record["sampled_tokens"]) == (0, 16 + 24)


def test_a_stop_while_continuations_play_ends_the_iteration_before_its_update(tmp_path: Path) -> None:
    def stop(flag: StopFlag, request: EpisodeRequest) -> None:
        if "@" in request.id:
            flag.set()

    run = FakeRun(small_config(*MONTE_CARLO), tmp_path / "run", before_each=stop)
    with pytest.raises(Stopped):
        run.trainer.run()
    assert "update" not in run.log
    assert list(run.directory.read_metrics()) == []


def test_a_deterministic_run_plays_no_more_at_once_than_any_other(tmp_path: Path) -> None:
    config = small_config(*MONTE_CARLO, "deterministic=true", "loop.iterations=1", "rollout.concurrent_episodes=3")
    run = FakeRun(config, tmp_path / "run")
    run.trainer.run()
    played = [entry for entry in run.log if entry.startswith("play")]
    halves = ["play 3 in lock step"] * 2
    assert played == [
        *halves,
        *("play 3 in lock step", "play 1 in lock step"),
        *(*halves, "play 2 in lock step"),
        *halves,
    ]
