"""Sandboxes as Ray actors, and the client that spreads sessions over them.

Owns the actor shell, its creation and `RaySandboxPool`. The only module of this floor that loads Ray. Each wait has a
deadline; a dead actor costs its trajectories a call, never the run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from tool_sandbox.client import infrastructure_failure
from tool_sandbox.config import PoolConfig
from tool_sandbox.errors import LeaseLost, SandboxFull, SandboxUnavailable
from tool_sandbox.leases import SessionTable
from tool_sandbox.ray_failures import ACTOR_LOST
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, ToolCall

ACTOR_THREADS = 16
"""Calls that one actor runs at once; isolated code blocks its thread until it ends."""
_LOST = (*ACTOR_LOST, TimeoutError)


class SandboxActor:
    """A `SessionTable` behind Ray. A plain class: `start_sandboxes` makes it an actor."""

    def __init__(self, config: PoolConfig) -> None:
        self._table = SessionTable(config.max_sessions, config.lease_seconds)

    def open(self, task: Task) -> str:
        return self._table.open(task)

    def call(self, lease: str, call: ToolCall) -> CallOutcome:
        return self._table.call(lease, call)

    def state_hash(self, lease: str) -> str | None:
        return self._table.state_hash(lease)

    def close(self, lease: str) -> None:
        self._table.close(lease)

    def ready(self) -> int:
        """Open sessions; answered once the actor has started."""
        return len(self._table)


def start_sandboxes(
    count: int,
    config: PoolConfig,
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    deadline_seconds: float = 60.0,
) -> list[Any]:
    """Create the actors `sandbox-0` … and wait until all have started; returns their handles, in order.

    `options` go to Ray as they are (`num_cpus`, `scheduling_strategy`, `namespace`, …): one mapping for all actors, or
    one for each.

    Raises:
        SandboxUnavailable: not all started before the deadline. Those that did are killed.
    """
    remote = ray.remote(SandboxActor)
    own = [options] * count if isinstance(options, Mapping) else options
    shared = {"max_concurrency": ACTOR_THREADS, "max_restarts": -1}
    handles = [
        remote.options(**{**shared, **each, "name": f"sandbox-{index}"}).remote(config)
        for index, each in zip(range(count), own, strict=True)
    ]
    try:
        ray.get([handle.ready.remote() for handle in handles], timeout=deadline_seconds)
    except (GetTimeoutError, *ACTOR_LOST) as error:
        stop_sandboxes(handles)
        raise SandboxUnavailable(
            f"sandbox pool: {count} actors did not all start in {deadline_seconds:g} s ({error}); "
            f"check that the cluster has room for {own}"
        ) from error
    return handles


def stop_sandboxes(handles: Sequence[Any]) -> None:
    """Kill the actors, and with them every open session."""
    for handle in handles:
        ray.kill(handle)


class RaySandboxPool:
    """A `SandboxClient` over named actors; new sessions go round them in turn.

    A lease reads `<actor>/<lease in that actor>`, so that any process may use it.
    """

    def __init__(self, actors: Mapping[str, Any], config: PoolConfig) -> None:
        """`actors`: handles by name; see `connect`."""
        if not actors:
            raise ValueError("sandbox pool: 0 actors; expected at least one")
        self._actors = dict(actors)
        self._config = config
        self._turn = itertools.count()

    @classmethod
    def connect(cls, count: int, config: PoolConfig, namespace: str | None = None) -> RaySandboxPool:
        """The pool of the actors `sandbox-0` … of a namespace. Raises `SandboxUnavailable` where one is missing."""
        names = [f"sandbox-{index}" for index in range(count)]
        try:
            return cls({name: ray.get_actor(name, namespace) for name in names}, config)
        except ValueError as error:
            raise SandboxUnavailable(
                f"sandbox pool: not all of {names} exist in namespace {namespace!r}; start them with start_sandboxes"
            ) from error

    async def open(self, task: Task) -> str:
        names = list(self._actors)
        first = next(self._turn) % len(names)
        failures: list[Exception] = []
        for name in names[first:] + names[:first]:
            try:
                return f"{name}/{await self._ask(name, 'open', self._config.open_seconds, task)}"
            except (SandboxFull, *_LOST) as error:
                failures.append(error)
        full = next((error for error in failures if isinstance(error, SandboxFull)), None)
        if full is not None:
            raise SandboxFull(f"sandbox pool: none of {len(names)} actors has room; the last full one said: {full}")
        raise SandboxUnavailable(f"sandbox pool: none of {names} answered; the last failure was {failures[-1]!r}")

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        name, inner = _split(lease)
        try:
            return await self._ask(name, "call", self._config.call_seconds, inner, call)
        except (LeaseLost, *_LOST) as error:
            return infrastructure_failure(call, f"{name}: {type(error).__name__}")

    async def state_hash(self, lease: str) -> str | None:
        name, inner = _split(lease)
        try:
            return await self._ask(name, "state_hash", self._config.call_seconds, inner)
        except _LOST as error:
            raise LeaseLost(f"lease {lease!r}: {name} is gone or silent ({type(error).__name__})") from error

    async def close(self, lease: str) -> None:
        name, inner = _split(lease)
        try:
            await self._ask(name, "close", self._config.call_seconds, inner)
        except _LOST:
            # The session died with its actor, or its lease will run out: either way it goes back.
            return

    async def _ask(self, name: str, method: str, seconds: float, *arguments: Any) -> Any:
        if name not in self._actors:
            raise LeaseLost(f"lease of {name!r}: this pool has {', '.join(self._actors)}")
        answer = getattr(self._actors[name], method).remote(*arguments)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(answer.future())), seconds)
        except RayTaskError as error:
            # Ray wraps what the actor raised; the pool's callers know only this floor's errors.
            raise error.cause from None


def _split(lease: str) -> tuple[str, str]:
    name, _, inner = lease.partition("/")
    return name, inner
