from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.metrics import METRIC_NAMES, MetricSink, count_staleness, mean_signals
from cluster.presets import load_config
from cluster.run_directory import RunDirectory
from reward_service.rewards import StepReward
from tests.cluster.builders import REPORT, answer_step, call_step, episode


def test_staleness_is_the_mean_age_of_a_token_and_not_of_a_step() -> None:
    old, new = call_step(version=3, tokens=6), answer_step(version=5, tokens=2)
    assert count_staleness([episode([old, new], 1.0)], version=5) == (2 * 6 + 0 * 2) / 8


def test_tokens_of_the_current_version_are_not_stale() -> None:
    assert count_staleness([episode([call_step(version=5), answer_step(version=5)], 1.0)], version=5) == 0.0


def test_no_token_has_no_age() -> None:
    assert count_staleness([], version=5) == 0.0


def test_the_mean_of_a_signal_leaves_out_the_steps_on_which_it_abstained() -> None:
    rewards = [
        StepReward(0.5, {"success": 1.0, "contribution": None}),
        StepReward(None, {"success": None, "contribution": None}),
        StepReward(0.1, {"success": 0.0, "contribution": -0.5}),
    ]
    steps = [call_step(), call_step(), answer_step()]
    assert mean_signals([episode(steps, 1.0, rewards=rewards)]) == {"contribution": -0.5, "success": 0.5}


def test_a_signal_that_always_abstained_has_no_mean() -> None:
    assert mean_signals([episode([answer_step()], None, rewards=[StepReward(None, {"solved": None})])]) == {}


def test_rates_are_action_tokens_over_the_seconds_of_the_phase() -> None:
    assert REPORT.tokens_per_second() == {"rollout": 30.0, "update": 60.0}


def test_a_rollout_is_not_faster_for_what_was_shared_or_sampled_by_continuations() -> None:
    # 120 tokens are trained on; 20 of them were shared, and 300 more were sampled while credit was given.
    report = replace(REPORT, sampled_tokens=400, continuation_tokens=300)
    assert report.tokens_per_second() == {"rollout": 25.0, "update": 60.0}


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create(load_config("quickstart"))
    return made


def test_a_report_goes_to_the_metrics_file_and_to_tensorboard(directory: RunDirectory) -> None:
    sink = MetricSink(directory, load_config("quickstart", ["learner.threads=3"]))
    sink.write(REPORT)
    sink.write(replace(REPORT, iteration=4, solved_rate=0.75))
    sink.close()
    first, second = directory.read_metrics()
    assert first["loss"] == 0.125
    assert first["tokens_per_second"] == {"rollout": 30.0, "update": 60.0}
    assert second["iteration"] == 4
    assert (second["layout"]["ranks"], second["layout"]["threads"]) == (1, 3)
    board = EventAccumulator(str(directory.tensorboard)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("rollout/solved_rate")] == [(3, 0.5), (4, 0.75)]
    assert board.Scalars("learner/grad_norm")[0].value == 0.5
    assert board.Scalars("signal/success")[0].value == 0.75


def test_the_dashboard_asks_for_no_metric_that_the_loop_does_not_write() -> None:
    import re

    text = (Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "steptool.json").read_text()
    asked = set(re.findall(r"ray_(steptool_[a-z_]+)", json.dumps(json.loads(text))))
    assert asked
    assert asked <= set(METRIC_NAMES)
