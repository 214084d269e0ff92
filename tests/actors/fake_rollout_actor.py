"""A rollout actor without an engine, in a module of its own: Ray's workers import it, and it must come up quickly."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import EngineFailure, PromptTooLong
from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task

if TYPE_CHECKING:
    from actors.episode import EpisodeRequest
    from actors.weights import WeightManifest

TASK = Task("ledger-1", "ledger", "How much?", (), GroundTruth(answer="7"), "L0", Split.TRAIN, {})


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
    engine_dies_of: str = ""
    """Episode at which the engine fails while the actor lives, the first time."""
    failing_loads: int = 0
    """Times that the engine dies of new weights while the actor lives."""
    returns_after: Path | None = None
    """A diary that must hold `returns_lines` lines before the actor starts a second time."""
    returns_lines: int = 0


class FakeRolloutActor:
    """The surface of `RolloutActor` that the pool needs."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._started = False
        self._version = 0

    async def start(self) -> int:
        if self._manners.returns_after is not None and self._write("begin to start") > 1:
            await asyncio.to_thread(_await_lines, self._manners.returns_after, self._manners.returns_lines)
        self._started = True
        self._write("start")
        return self._version

    def play(self, request: EpisodeRequest) -> ScoredTrajectory:
        assert self._started, "played before it was started"
        seen = self._write(f"play {request.id}")
        if request.id == self._manners.dies_of and seen <= self._manners.deaths:
            os._exit(1)
        if request.id == self._manners.engine_dies_of and seen == 1:
            raise EngineFailure("engine: it died")
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
        if self._write(f"load {version}") <= self._manners.failing_loads:
            raise EngineFailure("engine: it died")
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


def _await_lines(diary: Path, lines: int) -> None:
    deadline = time.monotonic() + 30
    while len(diary.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, f"{diary} never had {lines} lines"
        time.sleep(0.05)


def read(manners: Manners) -> list[str]:
    return manners.diary.read_text().splitlines()
