"""`steptool bench loop`: each part of an iteration beside the plain thing that it is built on, in one run.

Owns the measurement. Machines are noisy, so every number that matters is a ratio of two things timed one after the
other on the same machine, repeated, with its spread. Nothing here is used by training.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console

from actors.engine_environment import engine_environment
from actors.scoring import ScoredTrajectory
from cluster.config import RunConfig
from cluster.display import LineDisplay
from cluster.interrupt import StopFlag
from cluster.launch import check_inputs, ray_session
from cluster.metrics import IterationReport
from cluster.parts import start_parts
from cluster.presets import load_config
from cluster.run_directory import RunDirectory
from cluster.trainer import Trainer

ITERATIONS = 4
"""The first warms caches up and is not counted."""
REPEATS = 3
REFERENCE_SECONDS = 900.0


def run_loop_benchmark(preset: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """Measure the loop of a preset; progress goes to standard error."""
    with ray_session():
        return bench_loop(check_inputs(load_config(preset, overrides)))


def bench_loop(config: RunConfig) -> Mapping[str, Any]:
    """The warm start and a few iterations of the real loop, then the references on the same counts."""
    display = LineDisplay(Console(stderr=True))
    with tempfile.TemporaryDirectory() as directory:
        played, reports, byte_count = _iterations(config, Path(directory), display)
    display.note("reference: one offline batch on a bare engine")
    raw = _reference(_bare_generation, config, _counts(played))
    display.note("reference: bare PyTorch forward, backward and AdamW")
    bare = _reference(_bare_update, config, [tuple(one.trajectory.token_ids()) for one in played])
    copies = [_copy_seconds(byte_count) for _ in range(REPEATS)]
    return _verdict(reports, played, raw, bare, copies)


def _iterations(
    config: RunConfig, directory: Path, display: LineDisplay
) -> tuple[list[ScoredTrajectory], list[IterationReport], int]:
    run = RunDirectory(directory)
    run.create(config)
    with start_parts(config, display.note) as parts:
        trainer = Trainer(config, run, parts, display, StopFlag())
        state, reports = trainer.begin(), []
        for _ in range(ITERATIONS):
            state, report = trainer.iterate(state)
            display.iteration(report, ITERATIONS)
            reports.append(report)
        return trainer.last_batch, reports[1:], parts.learner.publish_weights().manifest.byte_count


def _counts(played: Sequence[ScoredTrajectory]) -> list[tuple[int, int]]:
    """(prompt tokens, generated tokens) of each trajectory; its observations count as prompt."""
    generated = [sum(len(step.action_ids) for step in one.trajectory.steps) for one in played]
    return [(one.trajectory.token_count - n, n) for one, n in zip(played, generated, strict=True)]


def _reference(measure: Callable[..., list[float]], config: RunConfig, data: Any) -> list[float]:
    """Seconds of each repetition, in a process of its own with the environment of an engine."""
    environment = {"env_vars": dict(engine_environment(config.rollout.engine))}
    task: Any = ray.remote(measure)
    options = {"num_cpus": 1, "runtime_env": environment, "max_retries": 0}
    return ray.get(task.options(**options).remote(config, data), timeout=REFERENCE_SECONDS)


def _bare_generation(config: RunConfig, counts: Sequence[tuple[int, int]]) -> list[float]:
    """All sequences at once, no tools, no turns: what the engine gives when nothing interrupts it."""
    from actors.engine import Sampling
    from actors.vllm_engine import VllmEngine

    async def measure() -> list[float]:
        engine = await VllmEngine.start(config.rollout.model, config.rollout.engine, stop_ids=[])
        seconds = []
        for repeat in range(REPEATS + 1):
            began = time.monotonic()
            await asyncio.gather(
                *(
                    engine.generate([100 + i] * prompt, Sampling(1.0, generated), f"{repeat}/{i}")
                    for i, (prompt, generated) in enumerate(counts)
                )
            )
            seconds.append(time.monotonic() - began)
        await engine.stop()
        return seconds[1:]

    return asyncio.run(measure())


def _bare_update(config: RunConfig, sequences: Sequence[Sequence[int]]) -> list[float]:
    """Padded batches of eight through the plain model, cross-entropy on every token, one AdamW step."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, config.learner.dtype)
    model = AutoModelForCausalLM.from_pretrained(config.learner.model_path, dtype=dtype)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
    ordered = sorted(sequences, key=len)
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.monotonic()
        for start in range(0, len(ordered), 8):
            chunk = [torch.tensor(ids) for ids in ordered[start : start + 8]]
            padded = torch.nn.utils.rnn.pad_sequence(chunk, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in chunk], batch_first=True)
            model(input_ids=padded, attention_mask=mask, labels=padded.masked_fill(mask == 0, -100)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.monotonic() - began)
    return seconds[1:]


def _copy_seconds(byte_count: int) -> float:
    source, target = np.ones(byte_count, np.uint8), np.zeros(byte_count, np.uint8)
    began = time.monotonic()
    np.copyto(target, source)
    return time.monotonic() - began


def _verdict(
    reports: Sequence[IterationReport],
    played: Sequence[ScoredTrajectory],
    raw: Sequence[float],
    bare: Sequence[float],
    copies: Sequence[float],
) -> dict[str, Any]:
    generated = sum(generated for _, generated in _counts(played))
    tokens = sum(one.trajectory.token_count for one in played)
    rollout = [report.action_tokens / report.seconds["rollout"] for report in reports]
    update = [report.learner["batch_tokens"] / report.seconds["update"] for report in reports]
    publish = [report.seconds["publish"] for report in reports]
    return {
        "seconds_per_iteration": statistics.median(sum(report.seconds.values()) for report in reports),
        "phase_seconds": {p: statistics.median(r.seconds[p] for r in reports) for p in reports[0].seconds},
        "rollout_ratio": _ratio(rollout, [generated / seconds for seconds in raw]),
        "update_ratio": _ratio(update, [tokens / seconds for seconds in bare]),
        "publish_ratio": _ratio(publish, copies),
        "iterations": len(reports),
        "repeats": REPEATS,
    }


def _ratio(ours: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Ratio of medians, with the extremes of the two spreads."""
    return {
        "median": statistics.median(ours) / statistics.median(reference),
        "low": min(ours) / max(reference),
        "high": max(ours) / min(reference),
        "ours": statistics.median(ours),
        "reference": statistics.median(reference),
    }
