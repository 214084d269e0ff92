"""The file that `steptool score` leaves: a JSON line for each trajectory, in their order, until the last that has one.

Owns the form of a line, and that a result which is on disk stays there. Results come in two ways: they are appended, or
they replace lines that infrastructure lost. Those wait in a file beside it, until a whole new file, with all that was
there, takes the place of the old one; the next run takes in what a killed one left waiting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from reward_service.errors import RewardError
from reward_service.wire import ItemResult, ScoredItem

REPLACING_SUFFIX = ".again"
_LINE_BEGINS = b'{"reward_version": "'
_RESULT: TypeAdapter[ItemResult] = TypeAdapter(ItemResult)


class InvalidFile(RewardError):
    """A file of trajectories or of results cannot be read; names the line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One result in a file."""

    result: ItemResult
    version: str
    text: bytes

    @property
    def lost(self) -> bool:
        """Whether infrastructure lost the trajectory, so that it may be scored again."""
        return not isinstance(self.result, ScoredItem) and self.result.error.kind == "infrastructure"


class ResultFile:
    """The results of the first of some trajectories."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replacing = path.with_name(path.name + REPLACING_SUFFIX)

    def read(self, ids: Sequence[str]) -> list[Line]:
        """What earlier runs left; cuts off a line that one of them could not write to its end.

        Raises:
            InvalidFile: it holds something else than the first results of the trajectories `ids`.
        """
        lines = self._lines_of(ids)
        with self._path.open("ab") as file:
            file.truncate(sum(len(line.text) for line in lines))
        if self._replacing.exists():
            self.take_in()
            lines = self._lines_of(ids)
        return lines

    def append(self, version: str, results: Sequence[ItemResult]) -> None:
        """Add the results of the trajectories that come next."""
        _append(self._path, version, results)

    def replace(self, version: str, results: Sequence[ItemResult]) -> None:
        """Keep results for the places of lost lines, where `take_in` puts them."""
        _append(self._replacing, version, results)

    def take_in(self) -> None:
        """Put the results that wait into the places of the lost lines; whole or not at all."""
        if not self._replacing.exists():
            return
        waiting = {(line.result.id, line.version): line.text for line in _lines(self._replacing)}
        half = self._path.with_name(self._path.name + ".part")
        with half.open("wb") as file:
            for line in _lines(self._path):
                # A file that somebody put here meanwhile may hold other results of the same trajectories.
                file.write(waiting.get((line.result.id, line.version), line.text) if line.lost else line.text)
            # Before it takes the name of the old one: a crash of the machine must not leave an empty file.
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, self._path)
        self._replacing.unlink()

    def _lines_of(self, ids: Sequence[str]) -> list[Line]:
        lines = list(_lines(self._path))
        if len(lines) > len(ids):
            raise InvalidFile(
                f"{self._path}: holds {len(lines)} results for {len(ids)} trajectories; choose another file"
            )
        for expected, line in zip(ids, lines, strict=False):
            if line.result.id != expected:
                raise InvalidFile(
                    f"{self._path}: holds the result of {line.result.id!r} where {expected!r} comes; "
                    "choose another file"
                )
        return lines


def _append(path: Path, version: str, results: Sequence[ItemResult]) -> None:
    records = ({"reward_version": version, **result.model_dump(mode="json")} for result in results)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)


def _lines(path: Path) -> Iterator[Line]:
    """Whole lines of a file; one that was cut short is none."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n") and (line.startswith(_LINE_BEGINS) or _LINE_BEGINS.startswith(line)):
            return
        try:
            record = json.loads(line)
            version = str(record.pop("reward_version"))
            yield Line(_RESULT.validate_python(record), version, line)
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidFile(f"{path}, line {number}: no result of ours ({error}); choose another file") from error
