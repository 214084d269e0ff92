"""Scores files of trajectories: reads, asks a source of rewards in chunks, keeps a result of each, resumes.

Consumes JSON lines or Parquet, one trajectory each, in either form of the contract. Produces a file of results
(`result_file`) in the order of the input; what is already there is not asked for again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reward_service.client import RewardSource
from reward_service.errors import UnscorableTrajectory
from reward_service.result_file import InvalidFile, ResultFile
from reward_service.wire import AnyTrajectory, ConversationItem, ItemResult, ScoredItem, ScoreRequest, TrajectoryItem

CHUNK_TRAJECTORIES = 32
_TRAJECTORY: TypeAdapter[TrajectoryItem | ConversationItem] = TypeAdapter(AnyTrajectory)
_JSON_COLUMNS = ("messages", "steps", "task", "tools")
"""Columns that a Parquet file may hold as JSON text."""


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

    def add_all(self, results: Iterable[ItemResult]) -> None:
        """Count some."""
        for result in results:
            self.add(result)

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
    """Add to `out` the results that it lacks, a chunk at a time; yields the count after each.

    Trajectories that infrastructure lost in an earlier run are scored again, before all others; their lines keep their
    places, and no result of an earlier run leaves the disk meanwhile.

    Raises:
        InvalidFile: `out` holds something else than the first results of these trajectories.
    """
    file = ResultFile(out)
    lines = file.read([item.id for item in items])
    pinned = lines[-1].version if lines else None
    found = Annotation()
    found.add_all(line.result for line in lines if not line.lost)
    found.resumed = found.trajectories
    yield found
    lost = [item for item, line in zip(items, lines, strict=False) if line.lost]
    try:
        async for version, results in _scored(lost, source, pinned):
            file.replace(version, results)
            found.add_all(results)
            yield found
    finally:
        file.take_in()
    async for version, results in _scored(items[len(lines) :], source, pinned):
        file.append(version, results)
        found.add_all(results)
        yield found


def conversations_read(items: Iterable[TrajectoryItem | ConversationItem]) -> Iterator[TrajectoryItem]:
    """Those of `items` that can be scored at all, step by step."""
    for item in items:
        try:
            yield item if isinstance(item, TrajectoryItem) else item.trajectory()
        except UnscorableTrajectory:
            # Its own line in the results says why.
            continue


async def _scored(
    items: Sequence[TrajectoryItem | ConversationItem], source: RewardSource, version: str | None
) -> AsyncIterator[tuple[str, list[ItemResult]]]:
    """The reward version and the results of each chunk of `items`, in their order; `version` is asked for if given."""
    for start in range(0, len(items), CHUNK_TRAJECTORIES):
        chunk = tuple(items[start : start + CHUNK_TRAJECTORIES])
        response = await source.score(ScoreRequest(reward_version=version, trajectories=chunk))
        version = response.reward_version
        results = {result.id: result for result in response.results}
        yield version, [results[item.id] for item in chunk]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        # Not splitlines(): it also splits at characters that JSON may hold as they are, like U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
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
