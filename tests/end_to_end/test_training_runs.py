"""Whole runs of the `tiny` preset as a user starts them: every part real, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.config import EngineConfig
from actors.engine_environment import engine_environment
from cluster.presets import load_config

pytestmark = pytest.mark.timeout(900)

RUN_SECONDS = 600.0
SMALL = ("evaluation.tasks=12", "evaluation.sampled=false", "checkpoint.every=1")


def command(run: Path, iterations: int, *extra: str) -> list[str]:
    settings = [f"loop.iterations={iterations}", *SMALL]
    overrides = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "cluster", "train", "--preset", "tiny", "--run-dir", str(run), *overrides, *extra]


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=RUN_SECONDS)
    return process.returncode, output


def start(arguments: Sequence[str], directory: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(directory / "auth_token")}
    environment.pop("RAY_ADDRESS", None)
    (directory / "auth_token").write_text("0123456789abcdef" * 4)
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def metrics(run: Path) -> list[dict[str, object]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_iterations(process: subprocess.Popen[str], run: Path, count: int) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while len(metrics(run)) < count:
        assert process.poll() is None, f"the run ended early: {process.communicate()[0]}"
        assert time.monotonic() < deadline, f"{len(metrics(run))} of {count} iterations in {RUN_SECONDS} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One uninterrupted deterministic run of four iterations."""
    directory = tmp_path_factory.mktemp("whole")
    code, output = finish(start(command(directory / "run", 4, "--deterministic"), directory))
    assert code == 0, output
    return directory / "run", output


def test_a_run_leaves_summary_metrics_trajectories_and_a_model_behind(finished: tuple[Path, str]) -> None:
    run, output = finished
    summary = json.loads((run / "summary.json").read_text())
    assert summary["heldout_tasks"] == 12
    assert summary["iterations"] == 4
    assert 0.0 <= summary["solved_before"] <= 1.0
    assert summary["solved_after_ci"][0] <= summary["solved_after"] <= summary["solved_after_ci"][1]
    assert [record["iteration"] for record in metrics(run)] == [1, 2, 3, 4]
    assert str(run) in output
    model = load_file(run / "checkpoints" / "00004" / "learner" / "model" / "model.safetensors")
    assert "model.embed_tokens.weight" in model


def test_the_exported_model_says_the_same_in_plain_transformers_and_in_vllm(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = finished
    export = run / "checkpoints" / "00004" / "learner" / "model"
    row = pq.read_table(run / "trajectories" / "00004.parquet").to_pylist()[0]
    token_ids = [*row["prompt_ids"], *row["action_ids"]]
    config = EngineConfig(dtype="float32", max_model_len=384, max_num_seqs=4, threads=1)
    for name, value in engine_environment(config).items():
        monkeypatch.setenv(name, value)
    in_vllm = asyncio.run(vllm_logprobs(str(export), config, token_ids))
    in_transformers = transformers_logprobs(str(export), token_ids)
    assert (in_vllm - in_transformers).abs().max() < 1e-4
    at_the_start = transformers_logprobs(load_config("tiny").learner.model_path, token_ids)
    assert (in_transformers - at_the_start).abs().max() > 1e-3


def transformers_logprobs(model: str, token_ids: Sequence[int]) -> torch.Tensor:
    """log p of every token but the first."""
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([token_ids])).logits
    return torch.log_softmax(logits[0, :-1], -1).gather(-1, torch.tensor(token_ids[1:]).unsqueeze(-1)).squeeze(-1)


async def vllm_logprobs(model: str, config: EngineConfig, token_ids: Sequence[int]) -> torch.Tensor:
    from actors.vllm_engine import VllmEngine

    engine = await VllmEngine.start(model, config, [])
    try:
        return torch.tensor(await engine.token_logprobs(token_ids, "export"))
    finally:
        await engine.stop()


def test_every_iteration_is_stored_step_by_step_with_its_credit(finished: tuple[Path, str]) -> None:
    run, _ = finished
    for record in metrics(run):
        table = pq.read_table(run / "trajectories" / f"{record['iteration']:05d}.parquet").to_pylist()
        assert len({row["trajectory"] for row in table}) == record["trajectories"]
        assert all(len(row["action_ids"]) == len(row["logprobs"]) for row in table)
        assert any(row["advantage"] not in (None, 0.0) for row in table)


def test_ratios_are_one_on_the_first_pass_when_learner_and_engine_share_float32_weights(
    finished: tuple[Path, str],
) -> None:
    # The published code recomputes "old" log-probabilities under the current policy, which hides every such mismatch.
    run, _ = finished
    for record in metrics(run):
        learner = record["learner"]
        assert isinstance(learner, dict)
        if learner["optimiser_steps"]:
            assert learner["ratio_mean"] == pytest.approx(1.0, abs=1e-3)
            assert learner["ratio_max"] == pytest.approx(1.0, abs=1e-2)


def test_a_stopped_run_resumes_with_the_losses_of_an_uninterrupted_one(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    whole, _ = finished
    run = tmp_path / "run"
    arguments = command(run, 4, "--deterministic")
    process = start(arguments, tmp_path)
    wait_for_iterations(process, run, 2)
    os.kill(process.pid, signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    assert not (run / "summary.json").exists()
    stopped_at = len(metrics(run))
    assert stopped_at < 4, "the run finished before the signal reached it"
    code, output = finish(start(arguments, tmp_path))
    assert code == 0, output
    expected = [record["loss"] for record in metrics(whole)]
    assert [record["loss"] for record in metrics(run)] == pytest.approx(expected, abs=1e-6)


def test_a_recorded_update_done_again_gives_the_recorded_loss_and_gradient_norm_to_the_last_bit(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    run, _ = finished
    arguments = [sys.executable, "-m", "cluster", "replay", str(run), "--iteration", "4"]
    code, output = finish(start(arguments, tmp_path))
    assert code == 0, output
    done, record = json.loads(output.splitlines()[-1]), metrics(run)[3]
    learner = record["learner"]
    assert isinstance(learner, dict)
    assert (done["checkpoint"], done["advantage_gap"]) == (3, 0.0)
    assert (done["loss"], done["grad_norm"]) == (record["loss"], learner["grad_norm"])
