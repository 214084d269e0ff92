"""Scores files of trajectories: reads, asks a source of rewards in chunks, writes a line for each, resumes.

Consumes JSON lines or Parquet, one trajectory each, in either form of the contract. Produces JSON lines, one result
each in the order of the input; what is already there is not asked for again.
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
from reward_service.errors import RewardError, UnscorableTrajectory
from reward_service.wire import AnyTrajectory, ConversationItem, ItemResult, ScoredItem, ScoreRequest, TrajectoryItem

CHUNK_TRAJECTORIES = 32
_LINE_BEGINS = b'{"reward_version": "'
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

    Trajectories that infrastructure lost in an earlier run are scored again; their lines keep their places.

    Raises:
        InvalidFile: `out` holds something else than the first results of these trajectories.
    """
    earlier = _earlier(items, out)
    found = Annotation()
    for result in earlier.first:
        found.add(result)
    found.resumed = found.trajectories + len(earlier.later)
    yield found
    version = earlier.version
    with out.open("a", encoding="utf-8") as file:
        for start in range(len(earlier.first), len(items), CHUNK_TRAJECTORIES):
            chunk = items[start : start + CHUNK_TRAJECTORIES]
            version, results = await _scored(chunk, earlier.later, source, version)
            for result in results:
                line = {"reward_version": version, **result.model_dump(mode="json")}
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                found.add(result)
            file.flush()
            yield found


def conversations_read(items: Iterable[TrajectoryItem | ConversationItem]) -> Iterator[TrajectoryItem]:
    """Those of `items` that can be scored at all, step by step."""
    for item in items:
        try:
            yield item if isinstance(item, TrajectoryItem) else item.trajectory()
        except UnscorableTrajectory:
            # Its own line in the results says why.
            continue


@dataclass(frozen=True, slots=True)
class _Earlier:
    """What an earlier run left."""

    first: Sequence[ItemResult]
    """Results that stay where they are."""
    later: Mapping[str, ItemResult]
    """Results behind the first lost one, by trajectory; they are written again, not asked for again."""
    version: str | None


def _earlier(items: Sequence[TrajectoryItem | ConversationItem], out: Path) -> _Earlier:
    """What `out` holds; cuts it off at the first trajectory that infrastructure lost, or in the middle of a line."""
    written = list(_written(out))
    if len(written) > len(items):
        raise InvalidFile(f"{out}: holds {len(written)} results for {len(items)} trajectories; choose another file")
    for item, line in zip(items, written, strict=False):
        if line.result.id != item.id:
            raise InvalidFile(
                f"{out}: holds the result of {line.result.id!r} where {item.id!r} comes; choose another file"
            )
    lost = [_was_lost(line.result) for line in written]
    stay = lost.index(True) if True in lost else len(written)
    if out.exists():
        with out.open("r+b") as file:
            file.truncate(written[stay - 1].end if stay else 0)
    later = {line.result.id: line.result for line in written[stay:] if not _was_lost(line.result)}
    return _Earlier([line.result for line in written[:stay]], later, written[-1].version if written else None)


async def _scored(
    chunk: Sequence[TrajectoryItem | ConversationItem],
    known: Mapping[str, ItemResult],
    source: RewardSource,
    version: str | None,
) -> tuple[str | None, list[ItemResult]]:
    """One result for each trajectory of `chunk`, in order, and the reward version; asks for those not `known`."""
    wanted = tuple(item for item in chunk if item.id not in known)
    if not wanted:
        return version, [known[item.id] for item in chunk]
    response = await source.score(ScoreRequest(reward_version=version, trajectories=wanted))
    results = {**known, **{result.id: result for result in response.results}}
    return response.reward_version, [results[item.id] for item in chunk]


def _was_lost(result: ItemResult) -> bool:
    return not isinstance(result, ScoredItem) and result.error.kind == "infrastructure"


@dataclass(frozen=True, slots=True)
class _Line:
    """One result in a file."""

    result: ItemResult
    version: str
    end: int
    """Bytes of the file up to its end."""


def _written(out: Path) -> Iterator[_Line]:
    """Whole lines of an earlier run; one that was cut short is none."""
    if not out.exists():
        return
    end = 0
    for number, line in enumerate(out.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n") and (line.startswith(_LINE_BEGINS) or _LINE_BEGINS.startswith(line)):
            return
        end += len(line)
        try:
            record = json.loads(line)
            version = str(record.pop("reward_version"))
            yield _Line(_RESULT.validate_python(record), version, end)
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidFile(f"{out}, line {number}: no result of ours ({error}); choose another file") from error


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
