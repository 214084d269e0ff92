"""Sandboxes as Ray actors, and the client that spreads sessions over them.

Owns the actor shell, its creation and `RaySandboxPool`. The only module of this floor that loads Ray. Each wait has a
deadline; a dead actor costs its trajectories a call, never the run.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.metrics import Counter, Gauge, Histogram

from tool_sandbox.audit import open_audit
from tool_sandbox.client import CALL_THREADS, LocalSandbox, Occupancy, infrastructure_failure
from tool_sandbox.config import AuditConfig, FileAudit, PoolConfig
from tool_sandbox.errors import LeaseLost, SandboxFull, SandboxUnavailable
from tool_sandbox.guard import IsolationGuard
from tool_sandbox.ray_failures import ACTOR_LOST
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, IsolationLevel, ToolCall, ToolResult

ACTOR_SPARE = 64
"""Requests that an actor takes beside one for each session: those who wait for a place keep nobody from closing."""
MOST_HUNG = CALL_THREADS // 2
"""Threads that may be lost to tools that never return, before the actor and its sessions are given up."""
_LOST = (*ACTOR_LOST, TimeoutError)
_TAGS = ("tool", "status")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """How a sandbox actor is."""

    level: IsolationLevel
    """What stands between the model's code and the machine, verified."""
    canaries: int
    """Attacks that the level held."""
    occupancy: Occupancy


class SandboxActor:
    """A `LocalSandbox` behind Ray. A plain class: `start_sandboxes` makes it an actor."""

    def __init__(self, config: PoolConfig) -> None:
        self._audit = open_audit(_own_file(config.audit))
        recorders = [RayCallMetrics().record, *(() if self._audit is None else (self._audit.record,))]
        self._sandbox = LocalSandbox(config, recorders=recorders)
        self._guard = IsolationGuard(config)
        self._level = Gauge("steptool_sandbox_isolation", "1 at the isolation level that was verified.", ("level",))

    async def open(self, task: Task, owner: str, wait_seconds: float) -> str:
        """Raises `IsolationUnavailable` where the isolation was not verified, or does not hold any more."""
        await self._guard.verified()
        return await self._sandbox.open(task, owner, wait_seconds)

    async def fork(self, lease: str) -> str:
        return await self._sandbox.fork(lease)

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        return await self._sandbox.call(lease, call)

    async def state_hash(self, lease: str) -> str | None:
        return await self._sandbox.state_hash(lease)

    async def user_turn(self, lease: str) -> str | None:
        return await self._sandbox.user_turn(lease)

    async def verdict(self, lease: str, answer: str | None) -> bool | None:
        return await self._sandbox.verdict(lease, answer)

    async def close(self, lease: str) -> None:
        await self._sandbox.close(lease)

    async def hung(self) -> int:
        """Threads lost to tools that never return. Answered at once by an actor that can answer at all."""
        return self._sandbox.hung()

    async def ready(self) -> Health:
        """Answered once the canaries were held. Raises `IsolationUnavailable`."""
        verified = await self._guard.verified()
        self._level.set(1.0, {"level": verified.level.value})
        return Health(verified.level, verified.canaries, self._sandbox.occupancy())


def _own_file(audit: AuditConfig) -> AuditConfig:
    """A log has one writer, so each actor has a log: `audit.jsonl` becomes `audit-sandbox-0.jsonl`."""
    if not isinstance(audit, FileAudit):
        return audit
    name = ray.get_runtime_context().get_actor_name() or "sandbox"
    return audit.model_copy(update={"path": audit.path.with_stem(f"{audit.path.stem}-{name}")})


class RayCallMetrics:
    """Tool calls at Ray's metrics endpoint. Exists only inside a Ray worker."""

    def __init__(self) -> None:
        self._calls = Counter("steptool_tool_calls_total", "Tool calls that ended.", _TAGS)
        self._seconds = {
            name: Histogram(f"steptool_tool_{name}_seconds", text, boundaries=_SECONDS, tag_keys=_TAGS)
            for name, text in _HISTOGRAMS.items()
        }

    def record(self, owner: str, lease: str, task: Task, call: ToolCall, result: ToolResult) -> None:
        """One more call. A tool that does not exist has no name here: the model invents as many as it likes."""
        unknown = result.status is CallStatus.UNKNOWN_TOOL
        tags = {"tool": "unknown" if unknown else call.name, "status": result.status.value}
        self._calls.inc(1.0, tags)
        for name, histogram in self._seconds.items():
            # Ray's histogram has no place for zero.
            histogram.observe(max(getattr(result, f"{name}_seconds"), 1e-9), tags)


_SECONDS = [0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
_HISTOGRAMS = {
    "cpu": "CPU seconds of a tool call.",
    "wall": "Wall seconds of a tool call.",
    "queue": "Seconds that a tool call waited for a free sandbox.",
}


def start_sandboxes(
    count: int,
    config: PoolConfig,
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    deadline_seconds: float = 120.0,
) -> list[Any]:
    """Create the actors `sandbox-0` … and wait until all have started; returns their handles, in order.

    Raises as `await_sandboxes` does.
    """
    handles = create_sandboxes(count, config, options)
    await_sandboxes(handles, deadline_seconds)
    return handles


def create_sandboxes(
    count: int, config: PoolConfig, options: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Create the actors `sandbox-0` … without waiting for them; returns their handles, in order.

    `options` go to Ray as they are (`num_cpus`, `scheduling_strategy`, `namespace`, …): one mapping for all actors, or
    one for each.
    """
    remote = ray.remote(SandboxActor)
    own = [options] * count if isinstance(options, Mapping) else options
    shared = {"max_concurrency": config.max_sessions + ACTOR_SPARE, "max_restarts": -1}
    return [
        remote.options(**{**shared, **each, "name": f"sandbox-{index}"}).remote(config)
        for index, each in zip(range(count), own, strict=True)
    ]


def await_sandboxes(handles: Sequence[Any], deadline_seconds: float = 120.0) -> list[Health]:
    """Wait until all have started and held their canaries.

    Raises:
        SandboxUnavailable: not all started before the deadline. Those that did are killed.
        IsolationUnavailable: a machine does not isolate as well as it must. All are killed.
    """
    try:
        return ray.get([handle.ready.remote() for handle in handles], timeout=deadline_seconds)
    except RayTaskError as error:
        stop_sandboxes(handles)
        raise error.cause from None
    except (GetTimeoutError, *ACTOR_LOST) as error:
        stop_sandboxes(handles)
        raise SandboxUnavailable(
            f"sandbox pool: {len(handles)} actors did not all start in {deadline_seconds:g} s ({error}); check that "
            "the cluster has room for them"
        ) from error


def stop_sandboxes(handles: Sequence[Any]) -> None:
    """Kill the actors, and with them every open session."""
    for handle in handles:
        ray.kill(handle)


class RaySandboxPool:
    """A `SandboxClient` over named actors; new sessions go round them in turn.

    A lease reads `<actor>/<lease in that actor>`, so that any process may use it.
    """

    def __init__(self, actors: Mapping[str, Any], config: PoolConfig, owner: str = "") -> None:
        """`actors`: handles by name; see `connect`. `owner`: the run for which sessions are opened."""
        if not actors:
            raise ValueError("sandbox pool: 0 actors; expected at least one")
        self._actors = dict(actors)
        self._config = config
        self._owner = owner
        self._turn = itertools.count()
        self._examinations: dict[str, asyncio.Task[None]] = {}

    @classmethod
    def connect(cls, count: int, config: PoolConfig, namespace: str | None = None, owner: str = "") -> RaySandboxPool:
        """The pool of the actors `sandbox-0` … of a namespace. Raises `SandboxUnavailable` where one is missing."""
        names = [f"sandbox-{index}" for index in range(count)]
        try:
            return cls({name: ray.get_actor(name, namespace) for name in names}, config, owner)
        except ValueError as error:
            raise SandboxUnavailable(
                f"sandbox pool: not all of {names} exist in namespace {namespace!r}; start them with start_sandboxes"
            ) from error

    async def open(self, task: Task) -> str:
        names = list(self._actors)
        first = next(self._turn) % len(names)
        names = names[first:] + names[:first]
        try:
            return await self._open_at_one_of(names, task, 0.0)
        except SandboxFull:
            # Nobody has room at once: wait in one line instead of running from one to the next.
            return await self._open_at_one_of(names, task, self._config.queue_seconds)

    async def _open_at_one_of(self, names: Sequence[str], task: Task, wait_seconds: float) -> str:
        failures: list[Exception] = []
        seconds = self._config.open_seconds + wait_seconds
        for name in names:
            try:
                return f"{name}/{await self._ask(name, 'open', seconds, task, self._owner, wait_seconds)}"
            except (SandboxFull, *_LOST) as error:
                failures.append(error)
                if wait_seconds and isinstance(error, SandboxFull):
                    break
        full = next((error for error in failures if isinstance(error, SandboxFull)), None)
        if full is not None:
            raise SandboxFull(f"sandbox pool: none of {len(names)} actors has room; the last full one said: {full}")
        raise SandboxUnavailable(f"sandbox pool: none of {names} answered; the last failure was {failures[-1]!r}")

    async def fork(self, lease: str) -> str:
        name, _ = _split(lease)
        seconds = self._config.open_seconds + self._config.queue_seconds
        return f"{name}/{await self._ask_session(lease, 'fork', seconds=seconds)}"

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        name, inner = _split(lease)
        try:
            return await self._ask(name, "call", self._config.call_seconds, inner, call)
        except (LeaseLost, *_LOST) as error:
            return infrastructure_failure(call, f"{name}: {type(error).__name__}")

    async def state_hash(self, lease: str) -> str | None:
        return await self._ask_session(lease, "state_hash")

    async def user_turn(self, lease: str) -> str | None:
        return await self._ask_session(lease, "user_turn")

    async def verdict(self, lease: str, answer: str | None) -> bool | None:
        return await self._ask_session(lease, "verdict", answer)

    async def close(self, lease: str) -> None:
        name, inner = _split(lease)
        try:
            await self._ask(name, "close", self._config.call_seconds, inner)
        except _LOST:
            # The session died with its actor, or its lease will run out: either way it goes back.
            return

    async def _ask_session(self, lease: str, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        """Ask the session of a lease; one that died with its actor is a lost lease."""
        name, inner = _split(lease)
        try:
            return await self._ask(name, method, seconds or self._config.call_seconds, inner, *arguments)
        except _LOST as error:
            raise LeaseLost(f"lease {lease!r}: {name} is gone or silent ({type(error).__name__})") from error

    async def _ask(self, name: str, method: str, seconds: float, *arguments: Any) -> Any:
        if name not in self._actors:
            raise LeaseLost(f"lease of {name!r}: this pool has {', '.join(self._actors)}")
        try:
            return await _answer(getattr(self._actors[name], method).remote(*arguments), seconds)
        except RayTaskError as error:
            # Ray wraps what the actor raised; the pool's callers know only this floor's errors.
            raise error.cause from None
        except TimeoutError:
            self._examine(name)
            raise

    def _examine(self, name: str) -> None:
        under_way = self._examinations.get(name)
        if under_way is None or under_way.done():
            self._examinations[name] = asyncio.create_task(self._replace_if_hung(name))

    async def _replace_if_hung(self, name: str) -> None:
        """Ray sees an actor that dies and none that hangs: such a one is ended, and Ray starts it anew.

        One that is only slow goes on, and so do its sessions.
        """
        try:
            hung = await _answer(self._actors[name].hung.remote(), self._config.silent_seconds)
        except ACTOR_LOST:
            return
        except TimeoutError:
            found = f"no answer in {self._config.silent_seconds:g} s"
        else:
            if hung < MOST_HUNG:
                return
            found = f"{hung} of its {CALL_THREADS} threads are lost to tools that never return"
        log.warning("%s hangs: %s; it is replaced, and its sessions are lost", name, found)
        ray.kill(self._actors[name], no_restart=False)


async def _answer(reference: Any, seconds: float) -> Any:
    return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(reference.future())), seconds)


def _split(lease: str) -> tuple[str, str]:
    name, _, inner = lease.partition("/")
    return name, inner
