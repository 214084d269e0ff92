"""Files of trajectories become files of results, once each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reward_service.config import RewardConfig
from reward_service.errors import RewardUnavailable, RewardVersionMismatch, ScorerUnavailable
from reward_service.offline import CHUNK_TRAJECTORIES, Annotation, annotate, read_trajectories
from reward_service.result_file import InvalidFile
from reward_service.rewards import TrajectoryReward
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import ScoreRequest, ScoreResponse, TrajectoryItem
from tests.reward_service.builders import call_step, trajectory

COUNT = CHUNK_TRAJECTORIES + 8
MANY = 2 * CHUNK_TRAJECTORIES + 16
LOST = COUNT
"""The first of `MANY`: a chunk of them and 8."""


class Losing(Recipe):
    """The default recipe, whose scorer is down for some trajectories."""

    def __init__(self, *lost: str) -> None:
        super().__init__(RewardConfig())
        self._lost = lost

    async def score(self, item: TrajectoryItem, plug_in_seconds: float | None = None) -> TrajectoryReward:
        if item.id in self._lost:
            raise ScorerUnavailable("judge: gone")
        return await super().score(item, plug_in_seconds)


class Counting:
    """The real service; counts what it was asked for, and is lost after some requests."""

    def __init__(self, answers: int = 100, lost: Sequence[str] = ()) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._service = RewardService(Losing(*lost))

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        if self._answers == 0:
            raise RewardUnavailable("http://rewards", 1, "gone")
        self._answers -= 1
        self.asked += [item.id for item in request.trajectories]
        return await self._service.score(request)


class Renamed(Counting):
    """The real service after somebody gave it another recipe."""

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        raise RewardVersionMismatch(expected=str(request.reward_version), found="another")


class Watched(Counting):
    """The real service; at each request it copies a directory as a kill at that moment would leave it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.left: list[Path] = []
        self._directory = directory

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        copy = self._directory.with_name(f"killed-{len(self.left)}")
        self.left.append(shutil.copytree(self._directory, copy))
        return await super().score(request)


def written(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def run(source: Path, out: Path, rewards: Counting) -> Annotation:
    *_, found = [found async for found in annotate(read_trajectories(source), out, rewards)]
    return found


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


async def test_every_trajectory_gets_a_line_in_the_order_of_the_file(tmp_path):
    without_result = call_step(0, status="infra_error") | {"progress": None}
    lost = trajectory("lost", steps=[without_result, {"index": 1, "answer": "41"}])
    nowhere = trajectory("nowhere", steps=[call_step(0) | {"progress": None}, {"index": 1, "answer": "42"}])
    source = written(tmp_path / "in.jsonl", trajectory("good"), lost, nowhere)
    found = await run(source, tmp_path / "out.jsonl", Counting())
    assert [(line["id"], line["status"]) for line in results(tmp_path / "out.jsonl")] == [
        *(("good", "ok"), ("lost", "ok"), ("nowhere", "error")),
    ]
    # good: 0.5 and 1; lost: an abstention and 0. Three credited steps earn 1.5.
    assert found.as_dict() == {
        "trajectories": 3,
        "resumed": 0,
        "errors": {"data": 1},
        "steps": 4,
        "abstained_steps": 1,
        "mean_step_reward": pytest.approx(0.5),
        "solved_rate": 0.5,
    }


async def test_a_run_that_was_cut_short_goes_on_where_it_stopped_and_asks_for_nothing_twice(tmp_path):
    source = written(tmp_path / "in.jsonl", *(trajectory(f"t-{n}") for n in range(COUNT)))
    out, first, second = tmp_path / "out.jsonl", Counting(answers=1), Counting()
    with pytest.raises(RewardUnavailable):
        await run(source, out, first)
    # As a full disk or a killed process leaves it.
    out.write_bytes(out.read_bytes() + b'{"reward_version": "')
    found = await run(source, out, second)
    assert (found.trajectories, found.resumed) == (COUNT, CHUNK_TRAJECTORIES)
    assert first.asked + second.asked == [f"t-{n}" for n in range(COUNT)]
    assert [line["id"] for line in results(out)] == [f"t-{n}" for n in range(COUNT)]


async def test_what_infrastructure_lost_is_scored_by_the_next_run_and_keeps_its_place(tmp_path):
    source = written(tmp_path / "in.jsonl", *(trajectory(f"t-{n}") for n in range(5)))
    out, second, third = tmp_path / "out.jsonl", Counting(), Counting()
    first = await run(source, out, Counting(lost=("t-1", "t-3")))
    assert first.as_dict()["errors"] == {"infrastructure": 2}
    found = await run(source, out, second)
    assert second.asked == ["t-1", "t-3"]
    assert (found.trajectories, found.resumed, found.as_dict()["errors"]) == (5, 3, {})
    assert [(line["id"], line["status"]) for line in results(out)] == [(f"t-{n}", "ok") for n in range(5)]
    await run(source, out, third)
    assert third.asked == []


async def stopped_with_losses(directory: Path) -> tuple[Path, Path]:
    """The input, and what is there when a run has lost the first 40 of 80 trajectories, scored 24, and was stopped."""
    source, out = directory / "in.jsonl", directory / "out.jsonl"
    written(source, *(trajectory(f"t-{n}") for n in range(MANY)))
    with pytest.raises(RewardUnavailable):
        await run(source, out, Counting(answers=2, lost=[f"t-{n}" for n in range(LOST)]))
    return source, out


@pytest.mark.parametrize("service", [Counting(answers=0), Renamed()], ids=["down", "another recipe"])
async def test_a_run_that_is_refused_at_once_leaves_every_earlier_result_where_it_is(tmp_path, service):
    source, out = await stopped_with_losses(tmp_path / "work")
    before = out.read_bytes()
    with pytest.raises((RewardUnavailable, RewardVersionMismatch)):
        await run(source, out, service)
    assert out.read_bytes() == before
    assert [line["status"] for line in results(out)] == ["error"] * 40 + ["ok"] * 24
    third = Counting()
    assert (await run(source, out, third)).resumed == 24
    assert [(line["id"], line["status"]) for line in results(out)] == [(f"t-{n}", "ok") for n in range(MANY)]
    assert len(third.asked) == len(set(third.asked)) == 40 + 16


async def test_a_run_that_is_refused_midway_keeps_what_it_got_in_its_place(tmp_path):
    source, out = await stopped_with_losses(tmp_path / "work")
    with pytest.raises(RewardUnavailable):
        await run(source, out, Counting(answers=1))
    assert [line["status"] for line in results(out)] == ["ok"] * 32 + ["error"] * 8 + ["ok"] * 24
    assert [line["id"] for line in results(out)] == [f"t-{n}" for n in range(64)]
    assert sorted(file.name for file in out.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


async def test_a_kill_at_any_moment_loses_no_result_and_the_next_run_asks_for_the_rest_alone(tmp_path):
    source, out = await stopped_with_losses(tmp_path / "work")
    second = Watched(out.parent)
    await run(source, out, second)
    resumed = []
    for left in second.left:
        for file in (path for path in left.iterdir() if path.name != "in.jsonl"):
            # The kill came in the middle of a line.
            file.write_bytes(file.read_bytes() + b'{"reward_version": "')
        third = Counting()
        found = await run(source, left / "out.jsonl", third)
        assert (left / "out.jsonl").read_bytes() == out.read_bytes()
        assert len(third.asked) == MANY - found.resumed
        resumed.append(found.resumed)
    # 24 from the first run; then the second one got 32, and 8.
    assert resumed == [24, 56, 64]
    assert [(line["id"], line["status"]) for line in results(out)] == [(f"t-{n}", "ok") for n in range(MANY)]


async def test_what_a_killed_run_got_is_not_mixed_with_results_of_another_recipe(tmp_path):
    source, out = await stopped_with_losses(tmp_path / "work")
    second = Watched(out.parent)
    await run(source, out, second)
    killed = second.left[1] / "out.jsonl"
    killed.write_text(killed.read_text().replace(results(out)[0]["reward_version"], "another"))
    with pytest.raises(RewardVersionMismatch):
        await run(source, killed, Counting())
    assert [(line["reward_version"], line["status"]) for line in results(killed)] == [
        *[("another", "error")] * 40,
        *[("another", "ok")] * 24,
    ]


async def test_what_cannot_be_scored_at_all_is_not_tried_again(tmp_path):
    nowhere = trajectory("nowhere", steps=[call_step(0) | {"progress": None}, {"index": 1, "answer": "42"}])
    source, again = written(tmp_path / "in.jsonl", nowhere), Counting()
    await run(source, tmp_path / "out.jsonl", Counting())
    assert (await run(source, tmp_path / "out.jsonl", again)).as_dict()["errors"] == {"data": 1}
    assert again.asked == []


async def test_a_line_of_the_file_ends_where_json_lines_end(tmp_path):
    source = tmp_path / "in.jsonl"
    answer = "one\u2028two\x85three"
    row = trajectory("t-1", steps=[{"index": 0, "answer": answer}])
    source.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (read,) = read_trajectories(source)
    assert isinstance(read, TrajectoryItem)
    assert read.steps[0].answer == answer


async def test_a_file_of_somebody_else_is_not_cut(tmp_path):
    source, out = written(tmp_path / "in.jsonl", trajectory("a")), tmp_path / "notes.txt"
    out.write_text("milk, eggs")
    with pytest.raises(InvalidFile, match="line 1: no result of ours"):
        await run(source, out, Counting())
    assert out.read_text() == "milk, eggs"


async def test_parquet_rows_may_hold_their_parts_as_json_text(tmp_path):
    messages = [{"role": "user", "content": "How much?"}, {"role": "assistant", "content": "42"}]
    task = {"id": "q", "ground_truth": {"answer": "42"}}
    rows = [{"id": "chat", "messages": json.dumps(messages), "task": json.dumps(task)}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    await run(tmp_path / "in.parquet", tmp_path / "out.jsonl", Counting())
    assert results(tmp_path / "out.jsonl")[0]["solved"] == 1.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"id": "a"', "line 1: no JSON"),
        (json.dumps(trajectory("a")) + '\n{"id": "b", "steps": 7}', "line 2: steps: Input should be a valid tuple"),
        (json.dumps(trajectory("a")) + "\n" + json.dumps(trajectory("a")), r"the ids \['a'\] occur more than once"),
    ],
)
def test_a_file_that_cannot_be_scored_names_the_line(tmp_path, text, reason):
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(InvalidFile, match=reason):
        read_trajectories(tmp_path / "in.jsonl")


async def test_results_of_other_trajectories_are_not_mixed_with_these(tmp_path):
    out = tmp_path / "out.jsonl"
    await run(written(tmp_path / "a.jsonl", trajectory("a"), trajectory("b")), out, Counting())
    before = out.read_bytes()
    with pytest.raises(InvalidFile, match="holds the result of 'a' where 'c' comes"):
        await run(written(tmp_path / "c.jsonl", trajectory("c"), trajectory("d")), out, Counting())
    with pytest.raises(InvalidFile, match="holds 2 results for 1 trajectories"):
        await run(written(tmp_path / "one.jsonl", trajectory("a")), out, Counting())
    assert out.read_bytes() == before
