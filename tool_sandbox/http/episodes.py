"""Episodes by id over a `SandboxClient`: what OpenEnv's reset, step and state do.

Owns the table of episodes. Each belongs to the key that began it, holds one lease, makes one step at a time, and is
closed when it is unused for too long. One event loop. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tool_sandbox.client import SandboxClient, infrastructure_failure
from tool_sandbox.config import HttpConfig
from tool_sandbox.errors import LeaseLost, SandboxError
from tool_sandbox.http.openenv import (
    Answer,
    CallTool,
    Distance,
    Observation,
    ResetRequest,
    State,
    StepRequest,
    StepResponse,
)
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, ToolCall
from tool_sandbox.verdict import solved


class NoSuchEpisode(SandboxError, LookupError):
    """Nobody with this key began an episode of this name, or it was unused for too long."""


class EpisodeBusy(SandboxError):
    """A step of the episode is under way."""


class EpisodeOver(SandboxError):
    """The episode ended; it takes no more steps."""


@dataclass(slots=True)
class _Episode:
    id: str
    task: Task
    lease: str
    expires: float
    steps: int = 0
    done: bool = False
    busy: bool = False


class Episodes:
    """The open episodes of one service."""

    def __init__(self, client: SandboxClient, config: HttpConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._client = client
        self._config = config
        self._clock = clock
        self._episodes: dict[tuple[str, str], _Episode] = {}

    async def reset(self, owner: str, request: ResetRequest) -> StepResponse:
        """Begin an episode; one of the same owner and name is closed first.

        Raises:
            UnknownToolset, NoSuchTask, CorruptTask: the request names a task that does not exist.
            EpisodeBusy: a step of the episode of that name is under way.
            SandboxFull, SandboxUnavailable: there is no session to be had.
        """
        await self.expire()
        task = await asyncio.to_thread(self._task, request)
        name = request.episode_id or uuid.uuid4().hex
        await self._replace(owner, name)
        async with asyncio.timeout(self._config.call_seconds):
            lease = await self._client.open(task)
        if (owner, name) in self._episodes:
            # Another reset of the same name was faster.
            await self._client.close(lease)
            raise EpisodeBusy(f"episode {name!r}: another reset of it is under way")
        self._episodes[owner, name] = _Episode(name, task, lease, self._deadline())
        tools = tuple(spec.openai_function() for spec in _offered(task))
        return StepResponse(observation=Observation(episode_id=name, text=task.prompt, tools=tools))

    async def step(self, owner: str, request: StepRequest) -> StepResponse:
        """Do one action.

        Raises:
            NoSuchEpisode, EpisodeBusy, EpisodeOver: the episode takes no step.
        """
        episode = await self._find(owner, request.episode_id)
        if episode.done:
            raise EpisodeOver(f"episode {episode.id!r}: it ended after {episode.steps} steps; reset it")
        with self._at_work(episode):
            episode.steps += 1
            if isinstance(request.action, Answer):
                return await self._answer(episode, request.action)
            seconds = min(request.timeout_s or self._config.call_seconds, self._config.call_seconds)
            return await self._call(episode, request.action, seconds)

    async def state(self, owner: str, episode_id: str) -> State:
        """Where an episode stands. Raises `NoSuchEpisode`, `EpisodeBusy`."""
        episode = await self._find(owner, episode_id)
        with self._at_work(episode):
            state_hash = None if episode.done else await self._state_hash(episode)
        task = episode.task
        return State(
            episode_id=episode.id,
            step_count=episode.steps,
            done=episode.done,
            task_id=task.id,
            toolset=task.toolset,
            split=task.split,
            level=task.level,
            state_hash=state_hash,
        )

    async def forget(self, owner: str, name: str) -> None:
        """Close an episode, if there is one of that name, and forget it."""
        await self._drop((owner, name))

    async def expire(self) -> int:
        """Close the episodes that were unused for too long; returns how many."""
        now = self._clock()
        dead = [key for key, episode in self._episodes.items() if episode.expires <= now and not episode.busy]
        for key in dead:
            await self._drop(key)
        return len(dead)

    async def close(self) -> None:
        """Give every session back."""
        for key in list(self._episodes):
            await self._drop(key)

    def __len__(self) -> int:
        return len(self._episodes)

    def _task(self, request: ResetRequest) -> Task:
        toolset = load_toolset(request.toolset or self._config.toolset)
        level = request.level or self._config.level or toolset.levels()[0]
        return toolset.sample_task(request.split or self._config.split, level, request.seed or 0)

    async def _call(self, episode: _Episode, action: CallTool, seconds: float) -> StepResponse:
        call = ToolCall(f"{episode.id}/{episode.steps}", action.tool_name, action.arguments)
        try:
            async with asyncio.timeout(seconds):
                outcome = await self._client.call(episode.lease, call)
        except TimeoutError:
            outcome = infrastructure_failure(call, f"no result in {seconds:g} s")
        if outcome.result.status.is_infrastructure:
            await self._end(episode)
        return _observed(episode, outcome)

    async def _answer(self, episode: _Episode, action: Answer) -> StepResponse:
        try:
            verdict = solved(episode.task.ground_truth, action.answer, await self._state_hash(episode))
        except LeaseLost:
            verdict = None
        await self._end(episode)
        reward = None if verdict is None else float(verdict)
        return StepResponse(observation=Observation(episode_id=episode.id, text=""), reward=reward, done=True)

    async def _state_hash(self, episode: _Episode) -> str | None:
        async with asyncio.timeout(self._config.call_seconds):
            return await self._client.state_hash(episode.lease)

    async def _end(self, episode: _Episode) -> None:
        episode.done = True
        await self._client.close(episode.lease)

    async def _find(self, owner: str, name: str) -> _Episode:
        await self.expire()
        episode = self._episodes.get((owner, name))
        if episode is None:
            raise NoSuchEpisode(
                f"episode {name!r}: not open; it was never begun with this key, or it was unused for "
                f"{self._config.episode_seconds:g} s; reset it"
            )
        return episode

    async def _replace(self, owner: str, name: str) -> None:
        old = self._episodes.get((owner, name))
        if old is not None:
            self._refuse_busy(old)
            await self._drop((owner, name))

    async def _drop(self, key: tuple[str, str]) -> None:
        episode = self._episodes.pop(key, None)
        if episode is not None and not episode.done:
            await self._client.close(episode.lease)

    @contextmanager
    def _at_work(self, episode: _Episode) -> Iterator[None]:
        self._refuse_busy(episode)
        episode.busy = True
        try:
            yield
        finally:
            episode.busy = False
            episode.expires = self._deadline()

    def _refuse_busy(self, episode: _Episode) -> None:
        if episode.busy:
            raise EpisodeBusy(f"episode {episode.id!r}: a step of it is under way; wait for its answer")

    def _deadline(self) -> float:
        return self._clock() + self._config.episode_seconds


def _offered(task: Task) -> list:
    specs = {spec.name: spec for spec in load_toolset(task.toolset).specs()}
    return [specs[name] for name in task.tools]


def _observed(episode: _Episode, outcome: CallOutcome) -> StepResponse:
    result, progress = outcome.result, outcome.progress
    observation = Observation(
        episode_id=episode.id,
        text=result.content,
        status=result.status,
        progress=progress and Distance(before=progress.before, after=progress.after),
    )
    known = progress is not None and not result.status.is_infrastructure
    reward = float(progress.before - progress.after) if progress is not None and known else None
    return StepResponse(observation=observation, reward=reward, done=episode.done)
