"""`steptool score` and `rescore`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.errors import BadConfiguration
from cluster.rescore import policy_loss, rescore
from learner.credit import CreditedTrajectory
from tests.cluster.builders import FakeRun, answer_step, call_step, episode, small_config


def steptool(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run of two iterations, played by the fake parts: a useful call, then an answer that is right or wrong."""
    run = FakeRun(small_config("loop.iterations=2", "credit.critic.kind=progress_table"), tmp_path / "run")
    run.trainer.run()
    return run.directory.path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_run_scored_by_its_own_configuration_changes_nothing_after_the_rules(finished: Path, tmp_path: Path) -> None:
    same = written(tmp_path / "same.yaml", "shaping: {kind: linear, contribution: 0.6, step_cost: 0.1, solved: 1.0}\n")
    *_, (done, total, found) = rescore(finished, same)
    assert (done, total, found.version_before) == (2, 2, found.version_after)
    assert [(one.advantage_agreement, one.loss_before) for one in found.iterations] == [
        (1.0, one.loss_after) for one in found.iterations
    ]


def test_a_run_scored_by_its_outcome_alone_shows_what_the_steps_had_told(finished: Path, tmp_path: Path) -> None:
    outcome = written(tmp_path / "outcome.yaml", "shaping: {kind: outcome_only}\n")
    result = steptool("rescore", str(finished), "--reward", str(outcome))
    assert result.exit_code == 0, result.output
    found = json.loads(result.output.splitlines()[-1])
    first = found["iterations"][0]
    # Four trajectories of a useful call (0.6 − 0.1) and a wrong answer (0): the fakes answer 7, which is never right.
    assert first["steps"] == 8
    assert first["reward_before"] == pytest.approx(0.25)
    assert first["reward_after"] == 0.0
    assert found["version_before"] != found["version_after"]


def test_the_loss_is_the_mean_advantage_over_tokens_with_its_sign_turned() -> None:
    one = episode([call_step(tokens=3), answer_step(tokens=1)], 1.0)
    # −(2·3 − 1·1) / 4; a step without credit has no tokens.
    assert policy_loss([CreditedTrajectory(one, (2.0, -1.0), (None, None))]) == -1.25
    assert policy_loss([CreditedTrajectory(one, (2.0, None), (None, None))]) == -2.0


@pytest.mark.parametrize(
    ("reward", "reason"),
    [("shaping: {kind: linaer}\n", "linaer"), ("shaping: [\n", "while parsing"), (None, "No such file")],
)
def test_a_reward_file_that_does_not_fit_ends_with_2(
    finished: Path, tmp_path: Path, reward: str | None, reason: str
) -> None:
    path = tmp_path / "reward.yaml" if reward is None else written(tmp_path / "reward.yaml", reward)
    result = steptool("rescore", str(finished), "--reward", str(path))
    assert result.exit_code == 2
    assert reason in result.output


def test_a_directory_without_a_run_or_without_trajectories_is_named(tmp_path: Path) -> None:
    reward = written(tmp_path / "r.yaml", "{}")
    with pytest.raises(BadConfiguration, match=r"no config\.yaml there"):
        list(rescore(tmp_path, reward))


def test_a_run_whose_rewards_were_charged_with_kl_is_not_scored_again(tmp_path: Path) -> None:
    charged = ("learner.loss.kl.kind=reference", "learner.loss.kl.place=reward")
    run = FakeRun(small_config("loop.iterations=1", *charged), tmp_path / "run")
    run.trainer.run()
    with pytest.raises(BadConfiguration, match="charged with the KL to a reference policy, which is not recorded"):
        list(rescore(run.directory.path, written(tmp_path / "r.yaml", "{}")))


def test_a_run_whose_continuations_are_gone_is_not_scored_again(tmp_path: Path) -> None:
    run = FakeRun(small_config("credit.kind=monte_carlo"), tmp_path / "run")
    with pytest.raises(BadConfiguration, match="only the returns under the run's own rewards are recorded"):
        list(rescore(run.directory.path, written(tmp_path / "r.yaml", "{}")))


def test_a_file_is_scored_from_the_command_line(tmp_path: Path) -> None:
    chat = {
        "id": "chat",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "42"}],
        "task": {"id": "q", "ground_truth": {"answer": "42"}},
    }
    source = written(tmp_path / "in.jsonl", json.dumps(chat) + "\n")
    result = steptool("score", str(source), str(tmp_path / "out.jsonl"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["solved_rate"] == 1.0
    broken = steptool("score", str(written(tmp_path / "bad.jsonl", "{")), str(tmp_path / "out2.jsonl"))
    assert (broken.exit_code, "line 1: no JSON" in broken.output) == (2, True)
    both = steptool("score", str(source), str(tmp_path / "o"), "--url", "http://127.0.0.1:1", "--reward", str(source))
    assert (both.exit_code, "found both" in both.output) == (2, True)


def test_a_step_model_that_is_not_there_ends_with_2_and_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", "")
    signals = "signals: {contribution: {kind: learned}}\n"
    reward = written(tmp_path / "reward.yaml", f"{signals}step_model: {{model: {tmp_path / 'gone'}}}\n")
    result = steptool("score", str(source), str(tmp_path / "out.jsonl"), "--reward", str(reward))
    assert result.exit_code == 2, result.output
    assert "gone': no such directory" in result.output
