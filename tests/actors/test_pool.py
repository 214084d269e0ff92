"""The pool over real Ray actors without engines: what is lost is played again, what is wrong ends the run."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.config import EngineConfig, RolloutConfig
from actors.episode import EpisodeRequest
from actors.errors import BadInput, PromptTooLong, RolloutsLost
from actors.pool import MAX_ATTEMPTS, RolloutPool
from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, StopReason, Trajectory, VersionSpan
from actors.weights import PublishedWeights, WeightManifest
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, Task

CONFIG = RolloutConfig(model="none", engine=EngineConfig(start_seconds=30, turn_seconds=30), concurrent_episodes=2)
TASK = Task("ledger-1", "ledger", "How much?", (), GroundTruth(answer="7"), "L0", Split.TRAIN, {})
MANIFEST = WeightManifest((), 0, "")


@dataclass(frozen=True)
class Manners:
    """How a fake rollout actor behaves."""

    name: str
    diary: Path
    """One line for everything that it was asked, across restarts."""
    dies_of: str = ""
    """Episode that kills the process, the first `deaths` times."""
    deaths: int = 1
    fails_on: str = ""
    """Episode that raises bad input."""
    serves: int = 0
    """Added to the version that it is told to serve."""
    load_seconds: float = 0.0


class FakeRolloutActor:
    """The surface of `RolloutActor` that the pool needs."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._started = False
        self._version = 0

    def start(self) -> int:
        self._started = True
        self._write("start")
        return self._version

    def play(self, request: EpisodeRequest) -> ScoredTrajectory:
        assert self._started, "played before it was started"
        seen = self._write(f"play {request.id}")
        if request.id == self._manners.dies_of and seen <= self._manners.deaths:
            os._exit(1)
        if request.id == self._manners.fails_on:
            raise PromptTooLong("task 'ledger-1': its prompt has 900 tokens")
        span = VersionSpan(self._version, 0, 1)
        step = Step((1,), (2,), (-0.5,), (span,), Answer(self._manners.name), None, None)
        played = Trajectory(request.id, request.group, TASK, (step,), StopReason.ANSWERED)
        return ScoredTrajectory(played, TrajectoryReward(request.id, (StepReward(1.0, {}),), 1.0, "v1"))

    def play_in_lock_step(self, requests: list[EpisodeRequest]) -> list[ScoredTrajectory]:
        return [self.play(request) for request in reversed(requests)]

    async def load_weights(self, manifest: WeightManifest, reference: list[Any], version: int) -> int:
        await asyncio.sleep(self._manners.load_seconds)
        self._write(f"load {version}")
        self._version = version + self._manners.serves
        return self._version

    def token_logprobs(self, sequences: list[tuple[int, ...]], label: str) -> list[tuple[float, ...]]:
        return [tuple(-float(token) for token in ids[1:]) for ids in sequences]

    def stop(self) -> None:
        self._write("stop")

    def ping(self) -> str:
        return "pong"

    async def apply(self, func: Callable[..., Any], *_: Any, **arguments: Any) -> Any:
        result = func(self, **arguments)
        return await result if inspect.isawaitable(result) else result

    def _write(self, line: str) -> int:
        """Note the line; returns how often it has been noted so far."""
        with self._manners.diary.open("a") as diary:
            diary.write(f"{line}\n")
        return read(self._manners).count(line)


def read(manners: Manners) -> list[str]:
    return manners.diary.read_text().splitlines()


@pytest.fixture
def pool_of(ray_local: str) -> Iterator[Callable[..., RolloutPool]]:
    pools: list[RolloutPool] = []

    def build(*manners: Manners, config: RolloutConfig = CONFIG) -> RolloutPool:
        remote: Any = ray.remote(FakeRolloutActor).options(num_cpus=0.1, max_restarts=-1, max_concurrency=8)
        actors = [remote.remote(one) for one in manners]
        ray.get([actor.start.remote() for actor in actors], timeout=30)
        pools.append(RolloutPool(actors, config))
        return pools[-1]

    yield build
    for pool in pools:
        pool.stop()


def requests(*names: str) -> list[EpisodeRequest]:
    return [EpisodeRequest(name, "g-1", TASK, temperature=1.0, max_turn_tokens=8) for name in names]


def weights(version: int) -> PublishedWeights:
    return PublishedWeights(MANIFEST, ray.put(b""), version)


def test_every_episode_is_played_once_and_all_actors_play(pool_of: Any, tmp_path: Path) -> None:
    first, second = Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b")
    names = [f"t-{n}" for n in range(9)]
    played = list(pool_of(first, second).play(requests(*names)))
    assert sorted(one.trajectory.id for one in played) == names
    assert {one.trajectory.answer for one in played} == {"a", "b"}
    diary = [line for one in (first, second) for line in read(one) if line.startswith("play")]
    assert sorted(diary) == [f"play {name}" for name in names]


def test_the_episodes_of_a_dead_actor_are_handed_out_again(pool_of: Any, tmp_path: Path) -> None:
    mortal = Manners("a", tmp_path / "a", dies_of="t-2")
    pool = pool_of(mortal)
    pool.load_weights(weights(4), 30)
    played = list(pool.play(requests("t-0", "t-1", "t-2", "t-3")))
    assert sorted(one.trajectory.id for one in played) == ["t-0", "t-1", "t-2", "t-3"]
    diary = read(mortal)
    assert diary.count("play t-2") == 2
    again = diary.index("start", 1)
    assert diary[again + 1] == "load 4", "a restarted actor must have the newest weights before it plays"
    versions = {one.trajectory.id: one.trajectory.steps[0].versions[0].version for one in played}
    assert set(versions.values()) == {4}


def test_an_episode_that_kills_every_actor_ends_the_run(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a", dies_of="t-0", deaths=99))
    with pytest.raises(RolloutsLost, match=f"episode 't-0': lost with its actor {MAX_ATTEMPTS} times"):
        list(pool.play(requests("t-0")))


def test_an_exception_inside_an_actor_ends_the_run_as_itself(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a", fails_on="t-1"))
    with pytest.raises(PromptTooLong) as raised:
        list(pool.play(requests("t-0", "t-1")))
    assert str(raised.value) == "task 'ledger-1': its prompt has 900 tokens"
    assert isinstance(raised.value, BadInput)


def test_lock_step_answers_come_in_the_order_of_the_requests(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b"))
    played = pool.play_in_lock_step(requests("t-3", "t-1", "t-2"))
    assert [(one.trajectory.id, one.trajectory.answer) for one in played] == [("t-3", "a"), ("t-1", "b"), ("t-2", "a")]


def test_every_engine_says_how_likely_the_canary_is(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b"))
    assert pool.token_logprobs([(1, 2, 3)], "canary", 30) == {0: [(-2.0, -3.0)], 1: [(-2.0, -3.0)]}


def test_an_engine_that_serves_another_version_is_refused(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b", serves=-1))
    with pytest.raises(RolloutsLost, match=r"version 5 was published, engines serve \{0: 5, 1: 4\}"):
        pool.load_weights(weights(5), 30)


def test_an_engine_that_is_late_with_its_weights_is_not_overlooked(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b", load_seconds=20))
    with pytest.raises(RolloutsLost, match=r"load_weights: engines \[1\] did not answer within 3 s"):
        pool.load_weights(weights(5), 3)
