"""`steptool score --judge`: a model grades a file, over real HTTP, and no vote is asked for twice."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app
from reward_service.client import RewardClient
from tests.reward_service.builders import call_step, trajectory
from tests.reward_service.judges import FakeJudge, Way, grades, on_a_socket

VOTES = 3
UNIQUE, ASKED = 40, 55
"""Trajectories: 15 of them read like another one."""
BEFORE_THE_KILL = 70
"""Votes; more than those of the first 16 trajectories, fewer than those of the first chunk."""
SOON = 60.0


@pytest.fixture(scope="module")
def socket() -> Iterator[Way]:
    with on_a_socket() as way:
        yield way


def trajectories() -> list[dict[str, Any]]:
    def one(number: int) -> dict[str, Any]:
        steps = [call_step(0), {"index": 1, "answer": str(number % UNIQUE)}]
        return trajectory(f"t-{number}", steps=steps)

    return [one(number) for number in range(ASKED)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(source: Path, out: Path, way: Way) -> list[str]:
    return ["score", str(source), str(out), "--judge", way.url, "--judge-model", "fake", "--votes", str(VOTES)]


def steptool(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.output.splitlines()[-1])


def kept_votes(store: Path) -> int:
    if not store.exists():
        return 0
    with contextlib.closing(sqlite3.connect(store)) as connection, contextlib.suppress(sqlite3.OperationalError):
        (count,) = connection.execute("SELECT count(value) FROM results WHERE kind = 'vote'").fetchone()
        return count
    return 0


def end_leases(store: Path) -> None:
    """As if the half minute had passed after which the claims of a killed process may be taken over."""
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("UPDATE results SET lease_ends = 0 WHERE value IS NULL")


def killed_after(votes: int, arguments: list[str], store: Path) -> None:
    """Run `steptool` in a process of its own until so many votes are kept, then kill it."""
    program = "from cluster.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SOON
        while kept_votes(store) < votes:
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline, f"{kept_votes(store)} votes after {SOON} s"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(SOON)


def test_a_killed_run_goes_on_and_the_judge_answers_once_for_each_vote_of_each_trajectory(socket, tmp_path):
    source, out = written(tmp_path / "in.jsonl", trajectories()), tmp_path / "out.jsonl"
    store = tmp_path / "out.jsonl.votes.sqlite"
    fake = socket.stage.fake = FakeJudge(grades(1, 5, "Solved"), answers=BEFORE_THE_KILL)
    killed_after(BEFORE_THE_KILL, arguments(source, out, socket), store)
    assert len(fake.asked) == BEFORE_THE_KILL
    end_leases(store)
    fake.answers = float("inf")
    found = told(steptool(*arguments(source, out, socket)))
    assert len(fake.asked) == UNIQUE * VOTES
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [f"t-{n}" for n in range(ASKED)]
    assert (found["trajectories"], found["errors"], found["judge"]["votes"]) == (ASKED, {}, UNIQUE * VOTES)
    again = told(steptool(*arguments(source, out, socket)))
    assert (again["resumed"], again["judge"]) == (ASKED, found["judge"])
    assert len(fake.asked) == UNIQUE * VOTES


def test_the_end_tells_how_far_the_votes_agree_and_what_they_took(socket, tmp_path):
    source = written(tmp_path / "in.jsonl", [trajectory()])
    socket.stage.fake = FakeJudge(grades(1, 5, "Solved"), grades(1, 5, "Solved"), grades(1, 2, "Solved"))
    result = steptool(*arguments(source, tmp_path / "out.jsonl", socket))
    found = told(result)
    assert found["solved_rate"] == 1.0
    # Contribution 1, 1 and 0.4: their mean is 0.8, less the step's cost of 0.1 at a weight of 0.6; then the outcome.
    assert found["mean_step_reward"] == pytest.approx((0.6 * 0.8 - 0.1 + 1) / 2)
    judge = found["judge"]
    assert (judge["trajectories"], judge["votes"], judge["lost_votes"]) == (1, 3, 0)
    assert (judge["step_agreement"], judge["outcome_agreement"]) == (0.0, 1.0)
    assert judge["mean_variance"] == {"success": 0.0, "contribution": pytest.approx(0.08), "solved": 0.0}
    assert (judge["requests"], judge["prompt_tokens"], judge["completion_tokens"]) == (3, 3000, 300)
    assert "all votes on a step agree" in result.output


def test_lines_that_the_judge_did_not_answer_are_asked_for_again_by_the_next_run(socket, tmp_path):
    source, out = written(tmp_path / "in.jsonl", trajectories()[:2]), tmp_path / "out.jsonl"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "signals: {solved: {kind: judge}}\nshaping: {kind: outcome_only}\n"
        f"judge: {{url: '{socket.url}', model: fake, votes: 1, request_retries: 0, request_seconds: 0.5}}\n"
    )
    fake = socket.stage.fake = FakeJudge(grades(1, 5, "Solved"), answers=1)
    first = told(steptool("score", str(source), str(out), "--reward", str(recipe)))
    assert (first["errors"], first["judge"]["votes"]) == ({"infrastructure": 1}, 1)
    fake.answers = 2
    second = told(steptool("score", str(source), str(out), "--reward", str(recipe)))
    assert (second["errors"], second["resumed"], second["judge"]["votes"]) == ({}, 1, 2)
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--judge", "http://127.0.0.1:1"], "--judge and --judge-model: found one"),
        (["--judge-model", "fake"], "--judge and --judge-model: found one"),
        (["--votes", "3"], "--votes: found no --judge"),
        (["--judge", "http://127.0.0.1:1", "--judge-model", "m", "--reward", "r.yaml"], "--reward and --judge"),
        (["--judge", "http://127.0.0.1:1", "--judge-model", "m", "--url", "http://127.0.0.1:2"], "--url and --judge"),
        (["--judge", "http://me:secret@127.0.0.1:1", "--judge-model", "m"], "the address holds credentials"),
    ],
)
def test_half_a_judge_and_two_scorers_are_refused_before_anything_is_asked(tmp_path, options, reason):
    source, out = written(tmp_path / "in.jsonl", trajectories()[:1]), tmp_path / "out.jsonl"
    result = steptool("score", str(source), str(out), *options)
    assert result.exit_code == 2
    assert reason in result.output
    assert "secret" not in result.output
    assert not out.exists()


def test_a_service_that_does_not_answer_ends_with_75_and_a_way_to_go_on(tmp_path, monkeypatch):
    source = written(tmp_path / "in.jsonl", trajectories()[:1])
    monkeypatch.setattr("cluster.score_files.RewardClient", functools.partial(RewardClient, retries=0))
    result = steptool("score", str(source), str(tmp_path / "out.jsonl"), "--url", "http://127.0.0.1:1")
    assert (result.exit_code, "run the same command again to go on" in result.output) == (75, True)
