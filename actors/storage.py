"""Scored trajectories as Parquet, one row a step: for people, notebooks and replays. Owns the schema.

Nothing that trained is lost: the task, ids, log-probabilities, versions, calls, results, rewards and signals. What was
written reads back as it was, but for what a call cost. A trajectory without a step leaves no row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.scoring import ScoredTrajectory
from actors.trajectory import Action, Answer, ParseFailure, Step, Trajectory, VersionSpan
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall, ToolResult

SCHEMA = pa.schema(
    [
        ("trajectory", pa.string()),
        ("group", pa.string()),
        ("task", pa.string()),
        ("level", pa.string()),
        ("prompt", pa.string()),
        ("stop", pa.string()),
        ("checked", pa.bool_()),
        ("final_state_hash", pa.string()),
        ("task_facts", pa.string()),
        ("solved", pa.float64()),
        ("step", pa.int16()),
        ("action", pa.string()),
        ("text", pa.string()),
        ("action_facts", pa.string()),
        ("status", pa.string()),
        ("observation", pa.string()),
        ("remaining_before", pa.int16()),
        ("remaining_after", pa.int16()),
        ("reward", pa.float64()),
        ("signals", pa.string()),
        ("advantage", pa.float64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("action_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("versions", pa.string()),
        ("reward_version", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class StoredTrajectory:
    """One trajectory as a run recorded it."""

    scored: ScoredTrajectory
    advantages: tuple[float | None, ...]


def read_trajectories(path: Path) -> list[StoredTrajectory]:
    """The trajectories of one file, in the order in which they were written.

    Raises:
        ValueError: the file has other columns: another version wrote it, or something else.
    """
    found = pq.read_schema(path).names
    if found != SCHEMA.names:
        odd = sorted(set(found) ^ set(SCHEMA.names))
        raise ValueError(f"trajectories {path}: the columns {odd} are missing or unknown; read it with what wrote it")
    rows = pq.read_table(path).to_pylist()
    return [_stored(list(steps)) for _, steps in groupby(rows, key=lambda row: row["trajectory"])]


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
        "final_state_hash": trajectory.final_state_hash,
        "task_facts": json.dumps(_task_facts(trajectory.task)),
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
        "action_facts": json.dumps(_action_facts(step)),
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


def _task_facts(task: Task) -> dict[str, Any]:
    """What a row's other columns do not say of the task."""
    return {
        "toolset": task.toolset,
        "tools": list(task.tools),
        "split": str(task.split),
        "ground_truth": asdict(task.ground_truth),
        "payload": dict(task.payload),
    }


def _action_facts(step: Step) -> dict[str, Any]:
    """What `text` does not say of the action, and the id under which its result came back."""
    result = {"result_of": step.result.call_id} if step.result else {}
    match step.action:
        case ToolCall(id, name, arguments):
            return {"id": id, "name": name, "arguments": dict(arguments), **result}
        case ParseFailure(_, reason):
            return {"reason": reason, **result}
        case Answer():
            return result


def _stored(rows: Sequence[Mapping[str, Any]]) -> StoredTrajectory:
    first = rows[0]
    trajectory = Trajectory(
        id=first["trajectory"],
        group=first["group"],
        task=_task(first, json.loads(first["task_facts"])),
        steps=tuple(map(_step, rows)),
        stop=StopReason(first["stop"]),
        final_state_hash=first["final_state_hash"],
        checked=first["checked"],
    )
    rewards = tuple(StepReward(row["reward"], json.loads(row["signals"])) for row in rows)
    reward = TrajectoryReward(trajectory.id, rewards, first["solved"], first["reward_version"])
    return StoredTrajectory(ScoredTrajectory(trajectory, reward), tuple(row["advantage"] for row in rows))


def _task(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Task:
    return Task(
        id=row["task"],
        toolset=facts["toolset"],
        prompt=row["prompt"],
        tools=tuple(facts["tools"]),
        ground_truth=GroundTruth(**facts["ground_truth"]),
        level=row["level"],
        split=Split(facts["split"]),
        payload=facts["payload"],
    )


def _step(row: Mapping[str, Any]) -> Step:
    facts = json.loads(row["action_facts"])
    status, before = row["status"], row["remaining_before"]
    return Step(
        prompt_ids=tuple(row["prompt_ids"]),
        action_ids=tuple(row["action_ids"]),
        logprobs=tuple(row["logprobs"]),
        versions=tuple(VersionSpan(*span) for span in json.loads(row["versions"])),
        action=_action(row, facts),
        result=None if status is None else ToolResult(facts["result_of"], CallStatus(status), row["observation"]),
        progress=None if before is None else Progress(before, row["remaining_after"]),
    )


def _action(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Action:
    match row["action"]:
        case "call":
            return ToolCall(facts["id"], facts["name"], facts["arguments"])
        case "parse_failure":
            return ParseFailure(row["text"], facts["reason"])
        case _:
            return Answer(row["text"])
