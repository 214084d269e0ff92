from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.errors import RolloutsLost
from cluster.checkpoint import RunState, begin_checkpoint
from cluster.cli import app
from cluster.config import KeepNewest
from cluster.errors import CheckpointError, NotEnoughResources, Stopped
from cluster.launch import ray_session
from cluster.run_directory import RunDirectory
from learner.errors import LearnerLost
from reward_service.errors import ServiceNotStarted
from tests.cluster.builders import small_config


def steptool(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


@pytest.mark.parametrize("option", ["--preset", "--set", "--run-dir", "--resume", "--deterministic", "--dry-run"])
def test_the_help_of_train_teaches_every_option(option: str) -> None:
    result = steptool("train", "--help")
    assert result.exit_code == 0
    assert option in result.output
    assert "steptool train --preset tiny" in result.output


def test_the_help_lists_every_command() -> None:
    output = steptool("--help").output
    assert [name for name in ("train", "evaluate", "bench", "models") if name not in output] == []


def test_an_unknown_preset_ends_with_2_and_the_nearest_name() -> None:
    result = steptool("train", "--preset", "quickstrat")
    assert result.exit_code == 2
    assert "did you mean 'quickstart'?" in result.stderr


def test_an_unknown_setting_ends_with_2_and_the_nearest_name() -> None:
    result = steptool("train", "--set", "loop.iteration=3")
    assert result.exit_code == 2
    assert "did you mean 'loop.iterations'?" in result.stderr


def test_a_bad_resume_ends_with_2_and_the_two_good_ones() -> None:
    result = steptool("train", "--resume", "maybe", "--dry-run")
    assert result.exit_code == 2
    assert "found 'maybe', expected auto or never" in result.stderr


def test_a_model_directory_that_is_not_there_ends_with_2_and_what_to_run(tmp_path: Path) -> None:
    result = steptool("train", "--set", "rollout.model=/nowhere", "--run-dir", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert "rollout.model='/nowhere': no model there" in result.stderr
    assert "steptool models fetch smollm2-135m" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [("task.suite=nothing", "nothing"), ("task.levels=[L9]", "L9"), ("evaluation.split=val2", "evaluation.split")],
)
def test_tasks_that_do_not_exist_end_with_2_before_anything_starts(tmp_path: Path, override: str, message: str) -> None:
    result = steptool("train", "--set", override, "--run-dir", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_name_ends_with_2_and_the_nearest_name() -> None:
    result = steptool("models", "fetch", "smollm2")
    assert result.exit_code == 2
    assert "did you mean 'smollm2-135m'?" in result.stderr


def settings_of(run: Path) -> list[str]:
    return ["--preset", str(run / "config.yaml"), "--run-dir", str(run)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory without a checkpoint."""
    RunDirectory(tmp_path / "run").create(small_config())
    return tmp_path / "run"


def test_the_directory_of_another_run_ends_with_2(run: Path) -> None:
    result = steptool("train", *settings_of(run), "--set", "seed=9")
    assert result.exit_code == 2
    assert "it holds a run with other settings" in result.stderr


def test_a_directory_with_checkpoints_is_not_started_anew(run: Path) -> None:
    begin_checkpoint(run / "checkpoints", RunState(0, 1, 0, 0.0, {}), lambda directory: dict, KeepNewest())()
    result = steptool("train", *settings_of(run), "--resume", "never")
    assert result.exit_code == 2
    assert "it holds checkpoints and --resume is never" in result.stderr


def test_a_run_without_a_checkpoint_cannot_be_evaluated(run: Path) -> None:
    result = steptool("evaluate", str(run))
    assert result.exit_code == 2
    assert "it has no checkpoint yet" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Stopped("stopped"), 75),
        (NotEnoughResources("no CPUs"), 3),
        (CheckpointError("damaged"), 2),
        (LearnerLost("a rank died"), 75),
        (RolloutsLost("nobody left"), 75),
        (ServiceNotStarted("no replica came up"), 3),
    ],
)
def test_an_error_of_a_run_has_its_own_exit_code(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("cluster.launch.launch_training", fail)
    result = steptool("train")
    assert result.exit_code == code
    assert result.stderr == f"steptool: {error}\n"


def test_a_full_disk_ends_with_3_and_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/r/trajectories/00007.parquet")

    monkeypatch.setattr("cluster.launch.launch_training", fail)
    result = steptool("train")
    assert result.exit_code == 3
    assert "disk full at runs/r/trajectories/00007.parquet" in result.stderr


def test_a_cluster_that_is_not_there_ends_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("nobody listens")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(NotEnoughResources, match="nobody listens"), ray_session():
        pass


def test_a_defect_of_ours_is_not_dressed_up_as_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr("cluster.launch.launch_training", fail)
    result = steptool("train")
    assert result.exit_code == 1
    assert isinstance(result.exception, AssertionError)


def test_a_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from cluster.cli import app\n"
        "app(['train', '--dry-run'], standalone_mode=False)\n"
        "import ray\n"
        "print('started:', ray.is_initialized(), 'vllm' in sys.modules, 'deepspeed' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "name: quickstart" in done.stdout
    assert "Placement" in done.stdout
    assert done.stdout.endswith("started: False False False\n")
    assert list(tmp_path.iterdir()) == []
