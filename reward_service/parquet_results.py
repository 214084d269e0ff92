"""Results of `steptool score` as a Parquet file, for whoever reads them as a table.

Owns the table's columns and `lines_beside`. A Parquet file cannot grow, so while work goes on the results are JSON
lines in a file beside it, which an interrupted run leaves and the next one takes up. Loads pyarrow when it is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_service.result_file import InvalidFile

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
LINES_SUFFIX = ".jsonl"
_ROWS_AT_ONCE = 1024
_MAPS = ("signals", "votes")
"""Fields of a step whose keys depend on the recipe."""


@contextmanager
def lines_beside(out: Path) -> Iterator[Path]:
    """A file of JSON lines with the results that `out` has so far; `out` is made from it when the block ends well.

    Raises:
        InvalidFile: `out` is no table of results.
    """
    lines = out.with_name(out.name + LINES_SUFFIX)
    if out.exists() and not lines.exists():
        _unpack(out, lines)
    yield lines
    _pack(lines, out)
    lines.unlink()


def _schema() -> pa.Schema:
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    component = pa.struct({"name": text, "raw": number, "weight": number, "value": number})
    step = {
        "index": pa.int64(),
        "tool_call_id": text,
        "reward": number,
        "signals": pa.map_(text, number),
        "components": pa.list_(component),
        "why": text,
        "votes": pa.map_(text, pa.struct({"count": pa.int64(), "variance": number})),
    }
    columns = {
        "reward_version": text,
        "id": text,
        "status": text,
        "steps": pa.list_(pa.struct(step)),
        "solved": number,
        "total": number,
        "error": pa.struct({"kind": text, "message": text, "pointer": text}),
    }
    return pa.schema(list(columns.items()))


def _pack(lines: Path, out: Path) -> None:
    """Whole or not at all: a reader never meets half a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, half = _schema(), out.with_name(out.name + ".part")
    with lines.open(encoding="utf-8") as rows, pq.ParquetWriter(half, schema) as table:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            table.write_table(pa.Table.from_pylist([_row(json.loads(line)) for line in some], schema))
    with half.open("rb") as file:
        # The lines are deleted next: a crash of the machine must not leave neither.
        os.fsync(file.fileno())
    os.replace(half, out)


def _unpack(out: Path, lines: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(out)
    except (OSError, pa.ArrowException) as error:
        raise InvalidFile(f"{out}: no Parquet ({error}); choose another file") from error
    if table.schema != _schema():
        raise InvalidFile(
            f"{out}: found the columns {table.schema.names}; expected a table of results; choose another file"
        )
    half = lines.with_name(lines.name + ".part")
    with half.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in table.to_pylist())
    os.replace(half, lines)


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Objects with keys of their own as Arrow takes them: pairs."""
    steps = [{**step, **{name: list(step[name].items()) for name in _MAPS}} for step in record["steps"]]
    return {**record, "steps": steps}


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    steps = [{**step, **{name: dict(step[name]) for name in _MAPS}} for step in row["steps"]]
    return {**row, "steps": steps}
