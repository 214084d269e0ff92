"""The pool over real Ray actors without engines: what is lost is played again, what is wrong ends the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.config import EngineConfig, RolloutConfig
from actors.episode import EpisodeRequest
from actors.errors import BadInput, PromptTooLong, RolloutsLost
from actors.pool import MAX_ATTEMPTS, RolloutPool
from actors.revival import MAX_FAILURES
from actors.weights import PublishedWeights, WeightManifest
from tests.actors.fake_rollout_actor import TASK, FakeRolloutActor, Manners, read

DEADLINE = 120.0
"""Seconds; for a machine that does other things."""
CONFIG = RolloutConfig(
    model="none", engine=EngineConfig(start_seconds=DEADLINE, turn_seconds=DEADLINE), concurrent_episodes=2
)
MANIFEST = WeightManifest((), 0, "")


@pytest.fixture
def pool_of(ray_local: str) -> Iterator[Callable[..., RolloutPool]]:
    pools: list[RolloutPool] = []

    def build(*manners: Manners, config: RolloutConfig = CONFIG) -> RolloutPool:
        remote: Any = ray.remote(FakeRolloutActor).options(num_cpus=0.1, max_restarts=-1, max_concurrency=8)
        actors = [remote.remote(one) for one in manners]
        pools.append(RolloutPool(actors, config))
        pools[-1].wait()
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
    pool.load_weights(weights(4), DEADLINE)
    played = list(pool.play(requests("t-0", "t-1", "t-2", "t-3")))
    assert sorted(one.trajectory.id for one in played) == ["t-0", "t-1", "t-2", "t-3"]
    diary = read(mortal)
    assert diary.count("play t-2") == 2
    again = diary.index("start", 1)
    assert diary[again + 1] == "load 4", "a restarted actor must have the newest weights before it plays"
    versions = {one.trajectory.id: one.trajectory.steps[0].versions[0].version for one in played}
    assert set(versions.values()) == {4}


def test_an_actor_whose_engine_died_is_replaced(pool_of: Any, tmp_path: Path) -> None:
    sick = Manners("a", tmp_path / "a", engine_dies_of="t-1")
    pool = pool_of(sick)
    pool.load_weights(weights(4), DEADLINE)
    played = list(pool.play(requests("t-0", "t-1", "t-2")))
    assert sorted(one.trajectory.id for one in played) == ["t-0", "t-1", "t-2"]
    diary = read(sick)
    assert diary.count("start") == 2
    assert diary.count("load 4") == 2


def test_an_engine_that_dies_of_new_weights_comes_back_with_them(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a", failing_loads=1))
    pool.load_weights(weights(5), DEADLINE)
    (played,) = pool.play(requests("t-0"))
    assert played.trajectory.steps[0].versions[0].version == 5


def test_weights_that_every_engine_dies_of_end_the_run(pool_of: Any, tmp_path: Path) -> None:
    diary = Manners("a", tmp_path / "a", failing_loads=99)
    pool = pool_of(diary)
    with pytest.raises(RolloutsLost, match=f"every engine failed {MAX_FAILURES} times as it came back"):
        pool.load_weights(weights(5), DEADLINE)
    assert read(diary).count("load 5") == 1 + MAX_FAILURES


def test_others_play_on_while_an_actor_comes_back(pool_of: Any, tmp_path: Path) -> None:
    """The dead actor starts only when the other one has played all that is left: a pool that waits would hang."""
    steady = Manners("b", tmp_path / "b")
    mortal = Manners("a", tmp_path / "a", dies_of="t-0", returns_after=tmp_path / "b", returns_lines=1 + 6)
    names = [f"t-{n}" for n in range(7)]
    pool = pool_of(mortal, steady, config=CONFIG.model_copy(update={"concurrent_episodes": 1}))
    assert sorted(one.trajectory.id for one in pool.play(requests(*names))) == names


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
    assert pool.token_logprobs([(1, 2, 3)], "canary", DEADLINE) == {0: [(-2.0, -3.0)], 1: [(-2.0, -3.0)]}


def test_an_engine_that_serves_another_version_is_refused(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b", serves=-1))
    with pytest.raises(RolloutsLost, match=r"version 5 was published, engines serve \{0: 5, 1: 4\}"):
        pool.load_weights(weights(5), DEADLINE)


def test_an_engine_that_is_late_with_its_weights_is_not_overlooked(pool_of: Any, tmp_path: Path) -> None:
    pool = pool_of(Manners("a", tmp_path / "a"), Manners("b", tmp_path / "b", load_seconds=2 * DEADLINE))
    with pytest.raises(RolloutsLost, match=r"load_weights: engines \[(0, )?1\] did not answer within 3 s"):
        pool.load_weights(weights(5), 3)
