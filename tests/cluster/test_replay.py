"""`steptool replay`, over runs that the fake parts made: their learner's loss is a quarter of its one weight."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.config import RunConfig
from cluster.errors import BadConfiguration, NotReproduced, Stopped
from cluster.replay import Replayed, expect_reproduced, replay, replayable
from cluster.run_directory import RunDirectory
from learner.credit import CreditedTrajectory
from learner.rank import UpdateReport
from tests.cluster.builders import FakeLearner, FakeRun, small_config, stop_in_iteration


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Five iterations; of the checkpoints 0, 2, 4 and 5 the newest two are left, and the start."""
    keep = ("checkpoint.keep.kind=milestones", "checkpoint.keep.count=2", "checkpoint.keep.interval=10")
    made = FakeRun(small_config("loop.iterations=5", "checkpoint.every=2", *keep), tmp_path / "run")
    made.trainer.run()
    assert sorted(path.name for path in made.directory.checkpoints.iterdir()) == ["00000", "00004", "00005"]
    return made.directory


class Recorder(FakeLearner):
    """Keeps what it was updated with."""

    def __init__(self) -> None:
        super().__init__([])
        self.batches: list[Sequence[CreditedTrajectory]] = []

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        self.batches.append(credited)
        return super().update(credited)


def replayed(
    run: RunDirectory, iteration: int, started: list[RunConfig] | None = None
) -> tuple[list[Replayed], Recorder]:
    """`started` gets the configuration of every learner that was started."""
    learner = Recorder()

    @contextmanager
    def start(config: RunConfig) -> Iterator[Any]:
        if started is not None:
            started.append(config)
        yield learner

    return list(replay(run.path, iteration, pytest.fail, start)), learner


def test_an_iteration_is_done_again_from_the_checkpoint_before_it(run: RunDirectory) -> None:
    [done], learner = replayed(run, 5)
    # Four updates made the checkpoint's weight 4; the fifth makes it 5.
    assert (done.iteration, done.checkpoint, done.loss) == (5, 4, 5 * 0.25)
    assert done.exact
    assert [one.scored.trajectory.id for one in learner.batches[0]] == [
        f"00005/{t:03d}/{k:02d}" for t in (0, 1) for k in (0, 1)
    ]


def test_the_updates_since_the_checkpoint_are_done_again_on_the_way_with_the_state_of_the_critic(
    run: RunDirectory,
) -> None:
    done, _ = replayed(run, 3)
    assert [(one.iteration, one.checkpoint, one.loss) for one in done] == [(1, 0, 0.25), (2, 0, 0.5), (3, 0, 0.75)]
    # The progress table remembers the batches before: without its state the advantages would differ.
    assert [one.advantage_gap for one in done] == [0.0, 0.0, 0.0]


def test_an_utterance_critic_goes_on_from_the_checkpoint_with_its_networks_and_its_buffer(tmp_path: Path) -> None:
    made = FakeRun(small_config("loop.iterations=3", "checkpoint.every=2", "credit.kind=archer"), tmp_path / "run")
    made.trainer.run()
    [done], learner = replayed(made.directory, 3)
    assert (done.checkpoint, done.advantage_gap, done.exact) == (2, 0.0, True)
    assert any(advantage for one in learner.batches[0] for advantage in one.advantages)
    assert "critic_td_loss" in list(made.directory.read_metrics())[-1]["learner"]


def test_credit_by_continuations_is_done_again_from_what_they_earned(tmp_path: Path) -> None:
    settings = ("credit.kind=monte_carlo", "credit.continuations=3", "loop.iterations=2", "checkpoint.every=2")
    made = FakeRun(small_config(*settings), tmp_path / "run", outcome=lambda request: len(request.id) % 7 / 7)
    made.trainer.run()
    done, learner = replayed(made.directory, 2)
    assert [(one.iteration, one.advantage_gap) for one in done] == [(1, 0.0), (2, 0.0)]
    assert all(one.exact for one in done)
    assert learner.batches[-1] == made.learner.seen
    made.directory.continuations_of(1).unlink()
    with pytest.raises(BadConfiguration, match=r"continuations/00001\.json: not there"):
        replayed(made.directory, 2)


@pytest.fixture
def moved(tmp_path: Path) -> RunDirectory:
    """Two iterations on one rank, and from their checkpoint two more on two ranks at another stage."""
    settings = ("loop.iterations=4", "checkpoint.every=2", "checkpoint.keep.count=3")
    first = FakeRun(small_config(*settings), tmp_path / "run", before_each=stop_in_iteration(3))
    with pytest.raises(Stopped):
        first.trainer.run()
    second = FakeRun(small_config(*settings, "learner.ranks=2", "learner.zero_stage=2"), tmp_path / "run")
    second.trainer.run()
    assert sorted(path.name for path in second.directory.checkpoints.iterdir()) == ["00000", "00002", "00004"]
    return second.directory


@pytest.mark.parametrize(("iteration", "layout"), [(1, (1, 0)), (4, (2, 2))])
def test_an_iteration_is_done_again_in_the_layout_that_it_was_recorded_in(
    moved: RunDirectory, iteration: int, layout: tuple[int, int]
) -> None:
    started: list[RunConfig] = []
    done, _ = replayed(moved, iteration, started)
    assert [(one.learner.ranks, one.learner.zero_stage) for one in started] == [layout]
    assert done[-1].exact


def test_a_replay_goes_on_in_the_layout_in_which_the_run_went_on(moved: RunDirectory) -> None:
    rmtree(moved.checkpoints / "00002")
    started: list[RunConfig] = []
    done, learner = replayed(moved, 4, started)
    assert [one.learner.ranks for one in started] == [1, 2]
    assert [(one.iteration, one.checkpoint, one.loss) for one in done] == [
        (1, 0, 0.25),
        (2, 0, 0.5),
        (3, 0, 0.75),
        (4, 0, 1.0),
    ]
    assert all(one.exact for one in done)
    # The second learner begins with what the first one held, which is no longer there afterwards.
    assert learner.log == ["load", "update", "update", "save", "load", "update", "update"]
    assert not list(moved.path.glob(".replay-*"))


def test_a_record_without_a_layout_is_done_again_in_that_of_the_configuration(moved: RunDirectory) -> None:
    records = [json.loads(line) for line in moved.metrics.read_text().splitlines()]
    for record in records:
        del record["layout"]
    moved.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    started: list[RunConfig] = []
    replayed(moved, 1, started)
    assert [one.learner.ranks for one in started] == [2]


def test_a_number_that_comes_out_otherwise_is_told(run: RunDirectory) -> None:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    records[-1]["learner"]["grad_norm"] = 0.5000000001
    run.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    [done], _ = replayed(run, 5)
    assert not done.exact
    with pytest.raises(NotReproduced, match=r"iteration 5: .* gradient norm 0\.5, recorded .*0\.5000000001"):
        expect_reproduced(done, small_config())
    expect_reproduced(done, small_config("learner.dtype=bfloat16"))


def test_an_iteration_without_checkpoint_or_trajectories_is_refused_and_the_others_are_named(run: RunDirectory) -> None:
    run.trajectories_of(2).unlink()
    assert replayable(run) == [1, 5]
    with pytest.raises(BadConfiguration, match=r"iteration 3 cannot be replayed; those that can: 1, 5\. .* 0, 4, 5"):
        replayed(run, 3)


def test_a_run_that_is_none_ends_the_command_with_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["replay", str(tmp_path), "--iteration", "1"])
    assert result.exit_code == 2
    assert "no config.yaml there" in result.stderr
