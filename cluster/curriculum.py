"""Which levels the next tasks come from: shares that follow the policy, so that it solves some and fails at some.

Owns `Curriculum`, the state of one run, and its two steps: `draw` the levels of an iteration, `learn` what was solved.
Pure: both give a new state, and a checkpoint holds it as JSON. There are no dice in it; the seed of a run decides the
tasks of a level, and the solved rates decide the levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.config import CurriculumMix

HARDER, STILL, EASIER = 1, 0, -1
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class LevelRecord:
    """What a run knows of one level."""

    share: float
    """Of the tasks to come."""
    owed: float = 0.0
    """Tasks that the shares have promised and `draw` has not given yet; negative where it gave them early."""
    drawn: int = 0
    """Tasks so far: the index of the next one."""
    recent: tuple[tuple[float, int], ...] = ()
    """(solved, judged) episodes of the newest iterations that played it, oldest first."""

    @property
    def rate(self) -> float | None:
        """Solved rate of the newest iterations; None where nothing was judged yet."""
        judged = sum(count for _, count in self.recent)
        return sum(solved for solved, _ in self.recent) / judged if judged else None


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Where a run's curriculum stands."""

    levels: Mapping[str, LevelRecord]
    """By name, easiest first."""
    course: int = STILL
    """Which way the shares are moving: `HARDER`, `EASIER` or `STILL`."""

    @staticmethod
    def start(levels: Sequence[str]) -> Curriculum:
        """Equal shares."""
        return Curriculum({level: LevelRecord(1.0 / len(levels)) for level in levels})

    @staticmethod
    def restore(state: Mapping[str, Any], levels: Sequence[str]) -> Curriculum:
        """From what `state` gave; an empty state is a start."""
        if not state:
            return Curriculum.start(levels)
        return Curriculum({name: _record(state["levels"][name]) for name in levels}, state["course"])

    def state(self) -> dict[str, Any]:
        """All of it, as JSON gives it back."""
        levels = {
            name: {**asdict(record), "recent": [list(one) for one in record.recent]}
            for name, record in self.levels.items()
        }
        return {"levels": levels, "course": self.course}

    def draw(self, count: int) -> tuple[list[tuple[str, int]], Curriculum]:
        """The next `count` tasks, each a level and an index within it, and the state after them.

        Always the level that is owed most, the easiest of equals: over time each level gets exactly its share, however
        small, and equal shares take turns.
        """
        records = {name: replace(one, owed=one.owed + count * one.share) for name, one in self.levels.items()}
        tasks: list[tuple[str, int]] = []
        for _ in range(count):
            name = max(records, key=lambda level: records[level].owed)
            tasks.append((name, records[name].drawn))
            records[name] = replace(records[name], owed=records[name].owed - 1.0, drawn=records[name].drawn + 1)
        return tasks, replace(self, levels=records)

    def learn(self, mix: CurriculumMix, outcomes: Mapping[str, tuple[float, int]]) -> Curriculum:
        """The state after an iteration; `outcomes`: level → (solved, judged) episodes."""
        records = {name: _remember(one, outcomes.get(name), mix.window) for name, one in self.levels.items()}
        course = _course(self.course, expected_rate(records), mix)
        if course != STILL:
            records = _shift(records, course, mix)
        return Curriculum(records, course)


def expected_rate(levels: Mapping[str, LevelRecord]) -> float | None:
    """Solved rate that the shares let expect, over the levels with a rate; None where there is none."""
    known = [(one.share, one.rate) for one in levels.values() if one.rate is not None]
    weight = sum(share for share, _ in known)
    return sum(share * rate for share, rate in known) / weight if weight else None


def _record(state: Mapping[str, Any]) -> LevelRecord:
    recent = tuple((float(solved), int(judged)) for solved, judged in state["recent"])
    return LevelRecord(state["share"], state["owed"], state["drawn"], recent)


def _remember(record: LevelRecord, outcome: tuple[float, int] | None, window: int) -> LevelRecord:
    if outcome is None or not outcome[1]:
        return record
    return replace(record, recent=(*record.recent, outcome)[-window:])


def _course(before: int, rate: float | None, mix: CurriculumMix) -> int:
    """Set out where the expected rate comes near an edge of the band; keep on to its middle (hysteresis)."""
    if rate is None:
        return STILL
    middle = (mix.low + mix.high) / 2
    if rate > mix.high - mix.margin or (before == HARDER and rate > middle):
        return HARDER
    if rate < mix.low + mix.margin or (before == EASIER and rate < middle):
        return EASIER
    return STILL


def _shift(records: Mapping[str, LevelRecord], course: int, mix: CurriculumMix) -> dict[str, LevelRecord]:
    """Move up to `mix.step` of the tasks, from the first level on the course that can spare any to one further on.

    That is the next level which is not beyond the band itself, and the last one where all are.
    """
    names = list(records)[::course]
    source = next((name for name in names if records[name].share - mix.floor > _ROUNDING), names[-1])
    further = names[names.index(source) + 1 :]
    if not further:
        return dict(records)
    to = next((name for name in further if not _is_beyond(records[name].rate, course, mix)), further[-1])
    moved = min(mix.step, records[source].share - mix.floor)
    changed = {source: records[source].share - moved, to: records[to].share + moved}
    return {name: replace(one, share=changed.get(name, one.share)) for name, one in records.items()}


def _is_beyond(rate: float | None, course: int, mix: CurriculumMix) -> bool:
    """Whether a level is too easy for a course to harder ones, or too hard for one to easier ones."""
    if rate is None:
        return False
    return rate > mix.high if course == HARDER else rate < mix.low
