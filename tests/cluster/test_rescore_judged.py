"""`steptool rescore` of a run that a judge graded: over real HTTP, and every vote once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from actors.recipes import tool_specs
from actors.scoring import ScoredTrajectory, score
from actors.storage import read_trajectories, write_trajectories
from actors.trajectory import Trajectory
from cluster.rescore import Rescored, rescore
from cluster.reward_assembly import opened_service
from reward_service.config import RewardConfig
from tests.cluster.builders import FakeRun, small_config
from tests.reward_service.judges import FakeJudge, Way, grades, on_a_socket

VOTES = 2
PAID = 2 * VOTES
"""The two tasks of the iteration; the episodes of a group read alike."""


@pytest.fixture(scope="module")
def socket() -> Iterator[Way]:
    with on_a_socket() as way:
        yield way


@pytest.fixture
def run(socket: Way, tmp_path: Path) -> Path:
    """A run of one iteration, graded as its reward service would: the first votes say 5, and all later ones 0."""
    socket.stage.fake = FakeJudge(*[grades(1, 5)] * PAID, grades(1, 0))
    judge = [f"rewards.judge.{setting}" for setting in (f"url={socket.url}", "model=fake", f"votes={VOTES}")]
    asked = ["rewards.signals.contribution.kind=judge", *judge, "credit.critic.kind=progress_table"]
    config = small_config("loop.iterations=1", *asked)
    played = FakeRun(config, tmp_path / "run")
    played.trainer.run()
    path = played.directory.trajectories_of(1)
    trajectories = [one.scored.trajectory for one in read_trajectories(path)]
    graded = asyncio.run(scored(played.directory.keeping_votes(config).rewards, trajectories))
    write_trajectories(path, graded, [(None,) * len(one.steps) for one in trajectories])
    return played.directory.path


async def scored(rewards: RewardConfig, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
    async with opened_service(rewards) as assembly:
        return await score(assembly.service, trajectories, tool_specs)


def recipe(path: Path, way: Way, model: str = "fake", **settings: object) -> Path:
    judge = {"url": way.url, "model": model, "votes": VOTES}
    path.write_text(json.dumps({"signals": {"contribution": {"kind": "judge"}}, "judge": judge, **settings}))
    return path


def last(run: Path, reward: Path) -> Rescored:
    *_, (_, _, found) = rescore(run, reward)
    return found


def asked(way: Way) -> int:
    assert way.stage.fake is not None
    return len(way.stage.fake.asked)


def test_a_judged_run_is_scored_again_from_its_own_votes_wherever_it_lies(socket, run, tmp_path):
    assert asked(socket) == PAID
    reweighted = recipe(tmp_path / "r.yaml", socket, shaping={"kind": "linear", "contribution": 1.0})
    found = last(run.rename(tmp_path / "moved"), reweighted)
    assert (asked(socket), found.largest_recorded_gap) == (PAID, 0.0)
    # A call of 1 · weight − 0.1, and an answer that is never right.
    (one,) = found.iterations
    assert (one.reward_before, one.reward_after) == (pytest.approx(0.25), pytest.approx(0.45))


def test_votes_of_another_judge_are_kept_in_the_run_too(socket, run, tmp_path):
    other = recipe(tmp_path / "r.yaml", socket, model="other")
    first = last(run, other)
    assert (asked(socket), first.largest_recorded_gap) == (PAID + 2 * VOTES, 0.0)
    # The other judge gives nothing for a call, which costs 0.1.
    assert first.iterations[0].reward_after == pytest.approx(-0.05)
    assert (last(run, other), asked(socket)) == (first, PAID + 2 * VOTES)


def test_a_recipe_with_a_store_of_its_own_keeps_its_votes_there(socket, run, tmp_path):
    own = tmp_path / "own.db"
    reward = recipe(tmp_path / "r.yaml", socket, model="other", store={"kind": "sqlite", "path": str(own)})
    last(run, reward)
    assert (asked(socket), own.exists()) == (PAID + 2 * VOTES, True)
    last(run, recipe(tmp_path / "kept-nowhere-else.yaml", socket, model="other"))
    assert asked(socket) == PAID + 2 * 2 * VOTES
