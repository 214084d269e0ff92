"""Scores files of trajectories: reads, asks a source of rewards in chunks, writes a line for each, resumes.

Consumes JSON lines or Parquet, one trajectory each, in either form of the contract. Produces JSON lines, one result
each in the order of the input; what is already there is not asked for again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reward_service.client import RewardSource
from reward_service.errors import RewardError
from reward_service.wire import AnyTrajectory, ConversationItem, ItemResult, ScoredItem, ScoreRequest, TrajectoryItem

CHUNK_TRAJECTORIES = 32
_TRAJECTORY: TypeAdapter[TrajectoryItem | ConversationItem] = TypeAdapter(AnyTrajectory)
_RESULT: TypeAdapter[ItemResult] = TypeAdapter(ItemResult)
_JSON_COLUMNS = ("messages", "steps", "task", "tools")
"""Columns that a Parquet file may hold as JSON text."""


class InvalidFile(RewardError):
    """A file of trajectories or of results cannot be read; names the line."""


@dataclass(slots=True)
class Annotation:
    """What a file's results say so far. Mutable: it grows by the chunk."""

    trajectories: int = 0
    resumed: int = 0
    """Of them, those that an earlier run had scored."""
    errors: Counter[str] = field(default_factory=Counter[str])
    """Trajectories without scores, by kind of error."""
    steps: int = 0
    abstained: int = 0
    reward_sum: float = 0.0
    solved: Counter[float] = field(default_factory=Counter[float])

    def add(self, result: ItemResult) -> None:
        """Count one result."""
        self.trajectories += 1
        if not isinstance(result, ScoredItem):
            self.errors[result.error.kind] += 1
            return
        self.steps += len(result.steps)
        self.abstained += sum(step.reward is None for step in result.steps)
        self.reward_sum += result.total
        if result.solved is not None:
            self.solved[result.solved] += 1

    def as_dict(self) -> dict[str, Any]:
        """Counts and means by name."""
        credited, judged = self.steps - self.abstained, sum(self.solved.values())
        return {
            "trajectories": self.trajectories,
            "resumed": self.resumed,
            "errors": dict(self.errors),
            "steps": self.steps,
            "abstained_steps": self.abstained,
            "mean_step_reward": self.reward_sum / credited if credited else None,
            "solved_rate": sum(value * count for value, count in self.solved.items()) / judged if judged else None,
        }


def read_trajectories(path: Path) -> list[TrajectoryItem | ConversationItem]:
    """All trajectories of a `.jsonl` or `.parquet` file.

    Raises:
        InvalidFile: it cannot be read, a row is no trajectory, or an id occurs twice.
    """
    items = [_trajectory(path, number, row) for number, row in _rows(path)]
    repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise InvalidFile(f"{path}: the ids {sorted(repeated)[:5]} occur more than once; give each trajectory its own")
    return items


async def annotate(
    items: Sequence[TrajectoryItem | ConversationItem], out: Path, source: RewardSource
) -> AsyncIterator[Annotation]:
    """Score what `out` does not hold yet and append it, a chunk at a time; yields the count after each.

    Raises:
        InvalidFile: `out` holds something else than the first results of these trajectories.
    """
    found = Annotation()
    written = list(_written(out))
    if len(written) > len(items):
        raise InvalidFile(f"{out}: holds {len(written)} results for {len(items)} trajectories; choose another file")
    version = written[-1][1] if written else None
    for item, (result, _) in zip(items, written, strict=False):
        if result.id != item.id:
            raise InvalidFile(f"{out}: holds the result of {result.id!r} where {item.id!r} comes; choose another file")
        found.add(result)
    found.resumed = found.trajectories
    yield found
    with out.open("a", encoding="utf-8") as file:
        for start in range(found.resumed, len(items), CHUNK_TRAJECTORIES):
            request = ScoreRequest(reward_version=version, trajectories=tuple(items[start : start + CHUNK_TRAJECTORIES]))
            response = await source.score(request)
            version = response.reward_version
            for result in response.results:
                line = {"reward_version": version, **result.model_dump(mode="json")}
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                found.add(result)
            file.flush()
            yield found


def _written(out: Path) -> Iterator[tuple[ItemResult, str]]:
    """Whole lines of an earlier run; a line that was cut short is taken away, so that the next one is whole."""
    if not out.exists():
        return
    text = out.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with out.open("r+b") as file:
            file.truncate(whole)
    for number, line in enumerate(text[:whole].splitlines(), start=1):
        try:
            record = json.loads(line)
            version = str(record.pop("reward_version"))
            yield _RESULT.validate_python(record), version
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidFile(f"{out}, line {number}: no result of ours ({error}); choose another file") from error


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise InvalidFile(f"{path}, line {number}: no JSON ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidFile(f"{path}: cannot be read ({error})") from error
    for number, row in enumerate(rows, start=1):
        yield number, {name: _cell(name, value) for name, value in row.items() if value is not None}


def _cell(name: str, value: Any) -> Any:
    return json.loads(value) if name in _JSON_COLUMNS and isinstance(value, str) else value


def _trajectory(path: Path, number: int, row: Mapping[str, Any]) -> TrajectoryItem | ConversationItem:
    try:
        return _TRAJECTORY.validate_python(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "/".join(map(str, first["loc"][1:]))
        raise InvalidFile(f"{path}, line {number}: {where}: {first['msg']}") from error
