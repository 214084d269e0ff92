"""Scored trajectories as Parquet, one row a step: for people, notebooks and replays. Owns the schema.

Nothing that trained is lost: ids, log-probabilities, versions, calls, results, rewards and their signals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, ParseFailure, Step
from reward_service.rewards import StepReward

SCHEMA = pa.schema(
    [
        ("trajectory", pa.string()),
        ("group", pa.string()),
        ("task", pa.string()),
        ("level", pa.string()),
        ("prompt", pa.string()),
        ("stop", pa.string()),
        ("checked", pa.bool_()),
        ("solved", pa.float32()),
        ("step", pa.int16()),
        ("action", pa.string()),
        ("text", pa.string()),
        ("status", pa.string()),
        ("observation", pa.string()),
        ("remaining_before", pa.int16()),
        ("remaining_after", pa.int16()),
        ("reward", pa.float32()),
        ("signals", pa.string()),
        ("advantage", pa.float32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("action_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("versions", pa.string()),
        ("reward_version", pa.string()),
    ]
)


def write_trajectories(
    path: Path, scored: Sequence[ScoredTrajectory], advantages: Sequence[Sequence[float | None]]
) -> None:
    """Write one file; `advantages` holds one number for each step, None where a step has no credit."""
    rows = [row for one, credit in zip(scored, advantages, strict=True) for row in _rows(one, credit)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _rows(one: ScoredTrajectory, advantages: Sequence[float | None]) -> Iterator[dict[str, Any]]:
    trajectory = one.trajectory
    shared = {
        "trajectory": trajectory.id,
        "group": trajectory.group,
        "task": trajectory.task.id,
        "level": trajectory.task.level,
        "prompt": trajectory.task.prompt,
        "stop": str(trajectory.stop),
        "checked": trajectory.checked,
        "solved": one.reward.solved,
        "reward_version": one.reward.reward_version,
    }
    for index, (step, reward, advantage) in enumerate(zip(trajectory.steps, one.reward.steps, advantages, strict=True)):
        yield {**shared, "step": index, "advantage": advantage, **_step_row(step), **_reward_row(reward)}


def _step_row(step: Step) -> dict[str, Any]:
    kind, text = _describe(step)
    return {
        "action": kind,
        "text": text,
        "status": str(step.result.status) if step.result else None,
        "observation": step.result.content if step.result else None,
        "remaining_before": step.progress.before if step.progress else None,
        "remaining_after": step.progress.after if step.progress else None,
        "prompt_ids": step.prompt_ids,
        "action_ids": step.action_ids,
        "logprobs": step.logprobs,
        "versions": json.dumps([[span.version, span.start, span.end] for span in step.versions]),
    }


def _reward_row(reward: StepReward) -> dict[str, Any]:
    return {"reward": reward.value, "signals": json.dumps(dict(reward.signals))}


def _describe(step: Step) -> tuple[str, str]:
    if isinstance(step.action, Answer):
        return "answer", step.action.text
    if isinstance(step.action, ParseFailure):
        return "parse_failure", step.action.text
    return "call", f"{step.action.name}({json.dumps(dict(step.action.arguments), ensure_ascii=False)})"
