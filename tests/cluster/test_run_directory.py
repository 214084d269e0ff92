from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.errors import BadConfiguration
from cluster.evaluation import Evaluation
from cluster.presets import load_config
from cluster.run_directory import RunDirectory, choose_run_directory
from reward_service.config import RewardConfig
from reward_service.store.config import SqliteStore

JUDGE = {"url": "http://127.0.0.1:8000", "model": "small"}
JUDGED = {"solved": {"kind": "judge"}}
EVALUATION = Evaluation(10, 0.8, (0.49, 0.943), {"L0": 0.8}, 2.0, 0.5, {"L0": 2.0})


@pytest.fixture
def config() -> RunConfig:
    return load_config("quickstart")


@pytest.fixture
def directory(tmp_path: Path, config: RunConfig) -> RunDirectory:
    made = RunDirectory(tmp_path / "runs" / "one")
    made.create(config)
    return made


def test_a_directory_holds_the_configuration_that_made_it(directory: RunDirectory, config: RunConfig) -> None:
    assert load_config(str(directory.config)) == config


def test_the_same_settings_may_enter_again_and_others_may_not(directory: RunDirectory, config: RunConfig) -> None:
    directory.create(config)
    with pytest.raises(BadConfiguration, match=r"it holds a run with other settings .* choose another --run-dir"):
        directory.create(load_config("quickstart", ["seed=1"]))
    assert load_config(str(directory.config)) == config


def test_a_run_may_go_on_in_another_layout_which_is_then_the_recorded_one(directory: RunDirectory) -> None:
    other = load_config("quickstart", ["learner.ranks=2", "learner.zero_stage=2", "placement.learner_cpus=0.5"])
    directory.create(other)
    assert directory.read_config() == other
    with pytest.raises(BadConfiguration, match="it holds a run with other settings"):
        directory.create(load_config("quickstart", ["learner.ranks=2", "learner.optimiser.lr=1"]))


@pytest.mark.parametrize(
    "remedy",
    [
        "learner.ranks=2",
        "learner.pack_tokens=512",
        "learner.activations.kind=recompute",
        "learner.deadline_seconds=7200",
    ],
)
def test_a_run_that_nobody_named_goes_on_in_another_layout(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch, remedy: str
) -> None:
    monkeypatch.setenv("STEPTOOL_HOME", str(tmp_path))
    first = choose_run_directory(config, resume=True)
    first.create(config)
    other = load_config("quickstart", [remedy])
    assert choose_run_directory(other, resume=True) == first
    first.create(other)
    assert first.read_config() == other


def test_latest_points_at_the_newest_run(directory: RunDirectory, config: RunConfig) -> None:
    latest = directory.path.parent / "latest"
    assert latest.resolve() == directory.path
    other = RunDirectory(directory.path.parent / "two")
    other.create(config)
    assert latest.resolve() == other.path
    assert not latest.readlink().is_absolute()


def test_a_resumed_run_forgets_the_iterations_that_it_will_do_again(directory: RunDirectory) -> None:
    for iteration in (1, 2, 3):
        directory.append_metrics({"iteration": iteration})
    directory.drop_metrics_after(2)
    directory.append_metrics({"iteration": 3, "again": True})
    assert [record["iteration"] for record in directory.read_metrics()] == [1, 2, 3]
    assert list(directory.read_metrics())[-1]["again"]


def test_a_record_that_a_crash_cut_short_does_not_hinder_a_resume(directory: RunDirectory) -> None:
    directory.append_metrics({"iteration": 1})
    with directory.metrics.open("a") as file:
        file.write('{"iteration": 2, "lo')
    directory.drop_metrics_after(2)
    directory.append_metrics({"iteration": 2})
    assert [json.loads(line)["iteration"] for line in directory.metrics.read_text().splitlines()] == [1, 2]


def test_metrics_refuse_what_json_does_not_know(directory: RunDirectory) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        directory.append_metrics({"iteration": 1, "loss": float("nan")})


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ({}, None),
        ({"judge": JUDGE, "signals": JUDGED}, "votes.sqlite"),
        ({"judge": JUDGE, "signals": JUDGED, "store": {"kind": "none"}}, None),
        ({"judge": JUDGE, "signals": JUDGED, "store": {"kind": "sqlite", "path": "of-all-runs.db"}}, "of-all-runs.db"),
    ],
    ids=["rules", "judge", "judge that keeps nothing", "judge with a store"],
)
def test_votes_are_kept_in_the_run_unless_the_recipe_says_where(
    directory: RunDirectory, config: RunConfig, rewards: dict[str, Any], kept: str | None
) -> None:
    judged = RunDirectory(directory.path.with_name("judged"))
    asked = config.model_copy(update={"rewards": RewardConfig.model_validate(rewards)})
    judged.create(asked)
    for known in (asked, judged.read_config()):
        store = judged.keeping_votes(known).rewards.store
        assert (store.path.name if isinstance(store, SqliteStore) else None) == kept


def test_the_newest_evaluation_of_a_label_counts(directory: RunDirectory) -> None:
    assert directory.evaluation("before") is None
    directory.append_evaluation("before", EVALUATION, None, 2.0)
    directory.append_evaluation("before", replace(EVALUATION, solved=0.9), replace(EVALUATION, solved=0.7), 3.0)
    directory.append_evaluation("after", EVALUATION, None, 2.0)
    assert directory.evaluation("before") == replace(EVALUATION, solved=0.9)
    assert directory.evaluation("before", "sampled") == replace(EVALUATION, solved=0.7)
    assert directory.evaluation("after", "sampled") is None
    assert [directory.evaluation_seconds(label) for label in ("before", "after", "never")] == [3.0, 2.0, 0.0]


def test_the_key_of_the_reward_service_is_readable_by_its_owner_alone(directory: RunDirectory) -> None:
    directory.write_reward_access("http://127.0.0.1:8000", "secret")
    path = directory.path / "rewards.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"url": "http://127.0.0.1:8000", "key": "secret"}


def test_an_unfinished_run_is_continued_and_a_finished_one_is_not(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPTOOL_HOME", str(tmp_path))
    first = choose_run_directory(config, resume=True)
    first.create(config)
    assert choose_run_directory(config, resume=True) == first
    assert choose_run_directory(config, resume=False).path.name == f"{first.path.name}-2"
    first.write_summary({"solved_after": 0.5})
    assert choose_run_directory(config, resume=True).path.name == f"{first.path.name}-2"


def test_other_settings_live_in_another_directory(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPTOOL_HOME", str(tmp_path))
    other = load_config("quickstart", ["seed=1"])
    assert choose_run_directory(config, resume=True) != choose_run_directory(other, resume=True)
