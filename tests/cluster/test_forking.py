"""Groups that are trees: who begins where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.episode import EpisodeRequest
from actors.prefix import prefix_before
from actors.scoring import ScoredTrajectory
from actors.trajectory import Step, Trajectory
from cluster.errors import BadConfiguration
from cluster.forking import branch_off, play_groups
from tests.cluster.builders import FakeRun, answer_step, call_step, episode, small_config, task
from tool_sandbox.tasks import StopReason

FORKED = ("credit.kind=tree", "task.group.kind=forked", "task.group.roots=2", "task.group_size=5")


def request(id: str) -> EpisodeRequest:
    return EpisodeRequest(id, id.rpartition("/")[0], task(), temperature=1.0, max_turn_tokens=8)


def root(*steps: Step) -> Trajectory:
    return Trajectory("root", "g", task(), steps, StopReason.ANSWERED)


class Player:
    """Each root has steps of its own length, so that a branch shows whose it is."""

    def __init__(self) -> None:
        self.rounds: list[list[str]] = []
        self.prefixes: dict[str, Sequence[Step]] = {}

    def play(self, requests: Sequence[EpisodeRequest]) -> list[ScoredTrajectory]:
        self.rounds.append([one.id for one in requests])
        self.prefixes |= {one.id: one.prefix.steps for one in requests if one.prefix is not None}
        return [self._one(one) for one in requests]

    def _one(self, one: EpisodeRequest) -> ScoredTrajectory:
        done = one.prefix.steps if one.prefix else (call_step(tokens=2 + int(one.id[-1])),)
        return episode([*done, answer_step()], 1.0, id=one.id, group=one.group)


IDS = [f"g{g}/0{k}" for g in range(2) for k in range(5)]


def test_roots_are_played_first_and_the_others_branch_off_them_in_turn() -> None:
    player = Player()
    groups = play_groups(small_config(*FORKED), [request(id) for id in IDS], player.play)
    assert player.rounds == [
        ["g0/00", "g0/01", "g1/00", "g1/01"],
        ["g0/02", "g0/03", "g0/04", "g1/02", "g1/03", "g1/04"],
    ]
    assert [one.trajectory.id for one in groups.scored] == IDS
    by_id = {one.trajectory.id: one.trajectory for one in groups.scored}
    owners = {"02": "00", "03": "01", "04": "00"}
    for group in ("g0", "g1"):
        for branch, owner in owners.items():
            first, shared = by_id[f"{group}/{owner}"].steps[0], by_id[f"{group}/{branch}"].steps[0]
            assert shared == first
    # Two branches took over the two action tokens of the first root, one the three of the second; in both groups.
    assert groups.shared_tokens == 2 * (2 * 2 + 3)


def test_an_independent_group_is_played_at_once() -> None:
    player = Player()
    groups = play_groups(small_config(), [request(id) for id in IDS], player.play)
    assert (player.rounds, player.prefixes, groups.shared_tokens) == ([IDS], {}, 0)


def test_a_branch_leaves_its_root_between_any_two_steps_alike_and_always_at_the_same_place() -> None:
    steps = [call_step(tokens=n) for n in (2, 3, 4)]
    trunk = root(*steps, answer_step())
    branches = [branch_off(request(f"g/{n}"), trunk, seed=7) for n in range(600)]
    found = Counter(len(one.prefix.steps) if one.prefix else 0 for one in branches)
    # 200 each are expected, with a deviation of 11.5.
    assert set(found) == {1, 2, 3}
    assert all(140 < count < 260 for count in found.values())
    assert branches[:9] == [branch_off(request(f"g/{n}"), trunk, seed=7) for n in range(9)]
    assert all(one.prefix in [prefix_before(trunk, t) for t in (1, 2, 3)] for one in branches)


def test_what_should_branch_off_a_root_of_one_step_begins_at_the_prompt() -> None:
    alone = request("g/0")
    assert branch_off(alone, root(answer_step()), seed=0) == alone
    assert branch_off(alone, root(), seed=0) == alone


def test_a_run_trains_on_trees_and_counts_what_it_sampled(tmp_path: Path) -> None:
    run = FakeRun(small_config(*FORKED, "loop.iterations=1"), tmp_path / "run")
    run.trainer.run()
    assert [entry for entry in run.log if entry.startswith("play")] == ["play 6", "play 4", "play 6", "play 6"]
    assert len(run.learner.seen) == 10
    [record] = run.directory.read_metrics()
    # Ten episodes of a call and an answer, two tokens each; six of them have their call from their root.
    assert (record["action_tokens"], record["sampled_tokens"]) == (40, 40 - 12)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("credit.kind=grpo", r"credit\.kind is grpo, which takes the trajectories of a group for independent"),
        ("task.group_size=2", r"task\.group\.roots is 2 and task\.group_size 2: nobody is left to branch off"),
        ("rollout.episode.max_steps=1", r"max_steps is 1: an episode of one step has no place to branch off"),
    ],
)
def test_forks_that_make_no_sense_are_refused(changed: str, told: str) -> None:
    with pytest.raises(BadConfiguration, match=told):
        small_config(*FORKED, changed)
