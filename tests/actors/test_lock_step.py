"""Batches whose composition does not depend on who was first."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from actors.engine import Generation, Sampling
from actors.errors import EngineFailure
from actors.lock_step import LockStepEngine, Request
from tests.actors.fakes import ScriptedEngine, generation

SAMPLING = Sampling(1.0, 8)


class RecordingEngine(ScriptedEngine):
    """Answers each request with its own prompt and writes down the batches that it got."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__({})
        self.batches: list[list[str]] = []
        self._fails = fails

    async def generate_in_lock_step(self, requests: Sequence[Request]) -> list[Generation]:
        self.batches.append([request_id for _, _, request_id in requests])
        if self._fails:
            raise EngineFailure("engine: it died")
        return [generation(prompt) for prompt, _, _ in requests]


async def play(engine: LockStepEngine, id: str, token: int, turns: int) -> list[tuple[int, ...]]:
    try:
        return [(await engine.generate([token], SAMPLING, f"{id}/{turn}")).token_ids for turn in range(turns)]
    finally:
        engine.leave()


@pytest.mark.parametrize("arrival", list(itertools.permutations("abc")))
async def test_a_batch_is_the_same_whoever_comes_first_and_an_early_end_blocks_nobody(arrival: Sequence[str]) -> None:
    recording = RecordingEngine()
    engine = LockStepEngine(recording, 3)
    turns = {"a": 1, "b": 3, "c": 2}
    played = await asyncio.gather(*(play(engine, id, ord(id), turns[id]) for id in arrival))
    assert recording.batches == [["a/0", "b/0", "c/0"], ["b/1", "c/1"], ["b/2"]]
    assert dict(zip(arrival, played, strict=True)) == {id: [(ord(id),)] * count for id, count in turns.items()}


async def test_an_episode_that_ends_before_its_first_turn_blocks_nobody() -> None:
    recording = RecordingEngine()
    engine = LockStepEngine(recording, 2)
    engine.leave()
    assert await play(engine, "b", 5, 1) == [(5,)]
    assert recording.batches == [["b/0"]]


async def test_an_engine_that_dies_is_told_to_every_episode_of_the_batch() -> None:
    engine = LockStepEngine(RecordingEngine(fails=True), 2)
    told = await asyncio.gather(play(engine, "a", 1, 1), play(engine, "b", 2, 1), return_exceptions=True)
    assert [str(error) for error in told] == ["engine: it died"] * 2
