from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.episode import EpisodeRequest
from cluster.checkpoint import list_checkpoints, load_checkpoint
from cluster.errors import NotEnoughResources, Stopped
from cluster.evaluation import summarise
from learner.errors import LearnerLost, NonFinite
from tests.cluster.builders import FakeLearner, FakeRun, answer_step, episode, small_config, stop_in_iteration


def metrics(run: FakeRun) -> list[dict]:
    return [json.loads(line) for line in run.directory.metrics.read_text().splitlines()]


def test_a_run_warms_up_publishes_evaluates_and_then_takes_the_stages_in_order(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.iterations=1"), tmp_path / "run")
    outcome = run.trainer.run()
    assert run.log == [
        *("warm start on 2", "begin reinforcement"),
        *("publish", "load version 1", "canary-1", "save"),
        "play 6",
        *("play 4", "update", "publish", "load version 2", "canary-2", "save"),
        "play 6",
    ]
    assert (outcome.state.iteration, outcome.state.version, outcome.state.cursor) == (1, 2, 2)
    assert outcome.before.tasks == outcome.after.tasks == 6


def test_an_iteration_leaves_its_metrics_and_its_trajectories_behind(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.iterations=1"), tmp_path / "run")
    run.trainer.run()
    [record] = metrics(run)
    assert record["trajectories"] == 4
    assert record["steps"] == 2.0
    assert record["solved_rate"] == 0.5
    assert record["staleness"] == 0.0
    assert record["loss"] == 0.25
    assert set(record["seconds"]) == {"rollout", "credit", "update", "publish", "store"}
    assert [path.name for path in run.directory.trajectories.iterdir()] == ["00001.parquet"]


def test_episodes_reach_the_learner_in_the_order_of_the_requests_whichever_finishes_first(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.iterations=1"), tmp_path / "run")
    run.trainer.run()
    stored = pq.read_table(run.directory.trajectories / "00001.parquet")["trajectory"].to_pylist()
    assert stored[::2] == ["00001/000/00", "00001/000/01", "00001/001/00", "00001/001/01"]


def test_a_batch_that_teaches_nothing_publishes_nothing_and_keeps_the_version(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.iterations=2"), tmp_path / "run", teaches=False)
    outcome = run.trainer.run()
    assert [entry for entry in run.log if entry.startswith("load version")] == ["load version 1"]
    assert (outcome.state.iteration, outcome.state.version, outcome.state.cursor) == (2, 1, 4)


def test_a_batch_that_overflows_is_kept_in_a_file_that_the_error_names(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.iterations=1"), tmp_path / "run")
    run.learner.overflows = True
    with pytest.raises(NonFinite, match=r"iteration 1: rank 0: loss nan.*the batch is in .*run/nonfinite/00001"):
        run.trainer.run()
    kept = pq.read_table(run.directory.nonfinite / "00001.parquet")
    assert kept["trajectory"].to_pylist()[::2] == ["00001/000/00", "00001/000/01", "00001/001/00", "00001/001/01"]
    assert kept["advantage"].to_pylist() == [a for one in run.learner.seen for a in one.advantages]
    assert "publish" not in run.log[run.log.index("update") :]


class LosesItsCheckpoint(FakeLearner):
    """Its first update overflows while a checkpoint is written that will never be complete."""

    def __init__(self, wait: Callable[[], dict[str, str]]) -> None:
        super().__init__([])
        self.overflows = True
        self._wait = wait

    def save(self, path: str) -> Any:
        super().save(path)
        return SimpleNamespace(wait=self._wait)


def test_a_failure_is_told_and_not_what_it_does_to_the_checkpoint_in_flight(tmp_path: Path) -> None:
    def lose() -> dict[str, str]:
        raise LearnerLost("learner: a rank died")

    run = FakeRun(small_config(), tmp_path / "run", learner=LosesItsCheckpoint(lose))
    with pytest.raises(NonFinite, match="rank 0: loss nan"):
        run.trainer.run()
    assert "warning: the newest checkpoint is not complete: learner: a rank died" in run.screen.getvalue()


def test_a_failure_does_not_wait_long_for_the_checkpoint_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.checkpoint_writer.LAST_SECONDS", 0.05)
    released = Event()

    def hang() -> dict[str, str]:
        assert released.wait(60.0)
        return {}

    run = FakeRun(small_config(), tmp_path / "run", learner=LosesItsCheckpoint(hang))
    with pytest.raises(NonFinite, match="rank 0: loss nan"):
        run.trainer.run()
    assert "warning: the newest checkpoint is not complete: checkpoint: still being written" in run.screen.getvalue()
    released.set()


def test_a_stop_whose_checkpoint_cannot_be_written_is_no_clean_stop(tmp_path: Path) -> None:
    def fill_the_disk() -> dict[str, str]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    learner = LosesItsCheckpoint(fill_the_disk)
    run = FakeRun(small_config(), tmp_path / "run", learner=learner, before_each=lambda flag, request: flag.set())
    with pytest.raises(NotEnoughResources, match="no space left on the disk"):
        run.trainer.run()


KL_IN_REWARD = ("learner.loss.kl.kind=reference", "learner.loss.kl.place=reward")


def test_a_kl_in_the_reward_lowers_step_rewards_before_credit_and_not_what_is_recorded(tmp_path: Path) -> None:
    plain = FakeRun(small_config("loop.iterations=1"), tmp_path / "plain")
    charged = FakeRun(small_config("loop.iterations=1", *KL_IN_REWARD), tmp_path / "charged")
    plain.trainer.run()
    charged.trainer.run()
    assert charged.log.index("step penalties") == charged.log.index("update") - 1
    for paid, free in zip(charged.learner.seen, plain.learner.seen, strict=True):
        found = [reward.value for reward in paid.scored.reward.steps]
        assert found == [None if reward.value is None else reward.value - 0.25 for reward in free.scored.reward.steps]
    assert metrics(charged)[0]["step_reward"] == metrics(plain)[0]["step_reward"]


def test_a_stop_while_episodes_play_saves_the_state_before_that_iteration(tmp_path: Path) -> None:
    run = FakeRun(small_config(), tmp_path / "run", before_each=stop_in_iteration(2))
    with pytest.raises(Stopped, match="run the same command again"):
        run.trainer.run()
    newest = list_checkpoints(run.directory.checkpoints)[-1]
    state = load_checkpoint(newest)
    assert (newest.name, state.iteration, state.version, state.cursor) == ("00001", 1, 2, 2)
    assert json.loads((newest / "learner" / "weights.json").read_text()) == run.learner.weights == 1
    assert [record["iteration"] for record in metrics(run)] == [1]


def test_a_stop_before_the_first_iteration_keeps_the_warm_start(tmp_path: Path) -> None:
    run = FakeRun(small_config(), tmp_path / "run", before_each=lambda flag, request: flag.set())
    with pytest.raises(Stopped):
        run.trainer.run()
    assert [path.name for path in list_checkpoints(run.directory.checkpoints)] == ["00000"]


def test_a_resumed_run_continues_with_the_identical_next_batch(tmp_path: Path) -> None:
    whole = FakeRun(small_config(), tmp_path / "whole")
    whole.trainer.run()
    first = FakeRun(small_config(), tmp_path / "halves", before_each=stop_in_iteration(2))
    with pytest.raises(Stopped):
        first.trainer.run()
    second = FakeRun(small_config(), tmp_path / "halves")
    outcome = second.trainer.run()
    assert second.log[:4] == ["load", "publish", "load version 2", "canary-2"]
    assert "warm start on 2" not in second.log
    assert second.tasks_of(2) == whole.tasks_of(2)
    assert second.tasks_of(3) == whole.tasks_of(3)
    assert second.tasks_of(2) != second.tasks_of(3)
    assert outcome.state.credit == load_checkpoint(list_checkpoints(whole.directory.checkpoints)[-1]).credit
    numbers = ("iteration", "version", "loss", "step_reward", "action_tokens")
    assert [[r[n] for n in numbers] for r in metrics(second)] == [[r[n] for n in numbers] for r in metrics(whole)]


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path: Path) -> None:
    settings = ("checkpoint.every=1", "checkpoint.keep.count=3")
    whole = FakeRun(small_config(*settings), tmp_path / "whole")
    whole.trainer.run()
    first = FakeRun(small_config(*settings), tmp_path / "run", before_each=stop_in_iteration(3))
    with pytest.raises(Stopped):
        first.trainer.run()
    (first.directory.checkpoints / "00002" / "learner" / "weights.json").write_text("7")
    second = FakeRun(small_config(*settings), tmp_path / "run")
    second.trainer.run()
    assert "warning: checkpoint" in second.screen.getvalue()
    assert "file learner/weights.json has digest" in second.screen.getvalue()
    assert [record["loss"] for record in metrics(second)] == [record["loss"] for record in metrics(whole)]
    assert {path.name for path in second.directory.checkpoints.iterdir()} == {
        "00001",
        "00002",
        "00003",
        "damaged-00002",
    }


def test_a_resumed_run_does_not_measure_the_start_again(tmp_path: Path) -> None:
    first = FakeRun(small_config(), tmp_path / "run", before_each=stop_in_iteration(1))
    with pytest.raises(Stopped):
        first.trainer.run()
    before = first.directory.evaluation("before")
    second = FakeRun(small_config(), tmp_path / "run")
    assert second.trainer.run().before == before
    assert [entry for entry in second.log if entry == "play 6"] == ["play 6"]


def test_the_time_budget_ends_a_run_after_the_iteration_that_used_it_up(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.train_seconds=0.000001"), tmp_path / "run")
    assert run.trainer.run().state.iteration == 1
    assert [path.name for path in list_checkpoints(run.directory.checkpoints)] == ["00000", "00001"]


def test_training_ends_while_there_is_time_for_the_last_evaluation_and_after_one_iteration_at_least(
    tmp_path: Path,
) -> None:
    def iterations(before_seconds: float) -> int:
        run = FakeRun(small_config("loop.total_seconds=3600"), tmp_path / f"{before_seconds}")
        before = summarise([episode([answer_step()], 1.0)])
        run.directory.append_evaluation("before", before, None, before_seconds)
        iteration = run.trainer.run().state.iteration
        assert run.log[-1] == "play 6"
        return iteration

    assert iterations(before_seconds=3000.0) == 3
    assert iterations(before_seconds=3600.0) == 1


def test_the_last_iteration_is_saved_however_rarely_checkpoints_come(tmp_path: Path) -> None:
    run = FakeRun(small_config("checkpoint.every=100", "checkpoint.keep.count=1"), tmp_path / "run")
    run.trainer.run()
    [saved] = list_checkpoints(run.directory.checkpoints)
    assert saved.name == "00003"
    assert {path.name for path in (saved / "learner" / "model").iterdir()} >= {"tokenizer.json"}


def test_an_evaluation_between_iterations_is_recorded_under_its_iteration(tmp_path: Path) -> None:
    run = FakeRun(small_config("evaluation.every=1", "loop.iterations=2"), tmp_path / "run")
    run.trainer.run()
    labels = [json.loads(line)["label"] for line in run.directory.evaluations.read_text().splitlines()]
    assert labels == ["before", "iteration 1", "after"]


def test_a_deterministic_run_plays_in_lock_step_with_a_seed_for_each_request(tmp_path: Path) -> None:
    run = FakeRun(small_config("deterministic=true", "loop.iterations=1"), tmp_path / "run")
    run.trainer.run()
    assert "play 4 in lock step" in run.log
    seeds = [request.seed for request in run.rollouts.played if request.id.startswith("00001/")]
    assert None not in seeds
    assert len(set(seeds)) == 4


RESAMPLE = ("credit.kind=grpo", "credit.uniform.kind=resample", "loop.iterations=2")


def solved_from(group: int):
    """Groups before this one are solved by every episode and teach nothing; the later ones by every other."""

    def outcome(request: EpisodeRequest) -> float:
        number = request.id.split("/")[1]
        return 1.0 if number.isdigit() and int(number) < group else float(int(request.id[-1]) % 2)

    return outcome


def test_a_group_that_teaches_nothing_is_counted(tmp_path: Path) -> None:
    run = FakeRun(small_config("credit.kind=grpo", "loop.iterations=1"), tmp_path / "run", outcome=solved_from(1))
    run.trainer.run()
    [record] = metrics(run)
    # Two groups of two episodes of two steps each; one group is uniform and none of its steps has credit.
    assert record["learner"]["credit_uniform_groups"] == 1.0
    assert record["learner"]["credit_uncredited_steps"] == 4.0
    assert record["learner"]["credit_zero_steps"] == 0.0
    assert record["trajectories"] == 4


def test_other_tasks_are_played_in_the_place_of_groups_that_teach_nothing(tmp_path: Path) -> None:
    run = FakeRun(small_config(*RESAMPLE), tmp_path / "run", outcome=solved_from(1))
    state = run.trainer.run().state
    first, second = metrics(run)
    assert [entry for entry in run.log if entry.startswith("play")] == ["play 6", *["play 4", "play 2"] * 2, "play 6"]
    assert (first["trajectories"], first["learner"]["credit_uniform_groups"]) == (6, 1.0)
    assert set(first["seconds"]) == {"rollout", "credit", "update", "publish", "store"}
    # Each iteration took three tasks, none of them twice.
    assert state.cursor == 6
    tasks = [*run.tasks_of(1), *run.tasks_of(2)]
    assert len(tasks) == 12
    assert len(set(tasks)) == 6
    assert second["trajectories"] == 6


def test_resampling_ends_where_a_policy_solves_everything(tmp_path: Path) -> None:
    config = small_config(*RESAMPLE, "credit.uniform.rounds=3", "loop.iterations=1")
    run = FakeRun(config, tmp_path / "run", outcome=solved_from(99))
    state = run.trainer.run().state
    assert [entry for entry in run.log if entry.startswith("play")] == ["play 6", *["play 4"] * 4, "play 6"]
    assert state.cursor == 8
    assert metrics(run)[0]["learner"]["credit_uniform_groups"] == 8.0


def test_resampling_draws_from_the_curriculum_as_one_draw_would(tmp_path: Path) -> None:
    mix = ("task.mix.kind=curriculum", "loop.iterations=1")
    resampled = FakeRun(small_config(*RESAMPLE, *mix), tmp_path / "resampled", outcome=solved_from(1))
    at_once = FakeRun(small_config(*mix, "task.per_iteration=3"), tmp_path / "at-once")
    resampled.trainer.run()
    at_once.trainer.run()
    assert resampled.tasks_of(1) == at_once.tasks_of(1)
