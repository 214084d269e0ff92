"""Tier T1: expressions and short programs in Monty, an interpreter of Python's core that has no way out.

Owns `LanguageSandbox`. A session is data, a dump of its variables of some kilobytes; each call loads it into one of a
few worker processes, runs, and dumps it again. So a lost worker costs one call and no session, a snapshot is the dump,
and a thousand idle sessions hold no process. A call that ran out of time or memory, or lost its worker, leaves the
session as it was before. The clock stands still and random numbers have one seed, so equal calls see equal worlds.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from tool_sandbox.code_tools import admit, by_name, observation
from tool_sandbox.config import LanguageConfig
from tool_sandbox.errors import ForkDiverged, IsolationUnavailable, LeaseLost
from tool_sandbox.host_tools import HostCalls, HostTool
from tool_sandbox.sandbox import CodeTool, Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

try:
    from pydantic_monty import Monty, MontyCrashedError, MontyError, MontySession
except ModuleNotFoundError as missing:
    raise IsolationUnavailable(
        "language sandbox: the package pydantic-monty is missing; install it with `pip install 'steptool[language]'`"
    ) from missing

SOURCE_CHARACTERS = 20_000
_CHECKOUTS_PER_WORKER = 1000
_DIGEST_BYTES = 32
_FRESH = hashlib.sha256(b"language: no call yet").digest()
_NOON = datetime.datetime(2026, 1, 1, 12)
_OUT_OF_CPU = "SIGXCPU"


def _schema(name: str, characters: int) -> dict[str, object]:
    text = {"type": "string", "minLength": 1, "maxLength": characters}
    return {"type": "object", "properties": {name: text}, "required": [name], "additionalProperties": False}


CALCULATE = CodeTool(
    ToolSpec(
        name="calculate",
        description="Evaluate a Python expression and give back its value.",
        parameters=_schema("expression", 2000),
        family="code",
        trust=Trust.LANGUAGE,
    ),
    # The value becomes text inside, where time and memory are bounded.
    lambda call: f"print((\n{call.arguments['expression']}\n))",
)
CODE = CodeTool(
    ToolSpec(
        name="code",
        description="Run Python code and give back what it prints. Variables stay; tools can be called as functions.",
        parameters=_schema("code", SOURCE_CHARACTERS),
        family="code",
        trust=Trust.LANGUAGE,
        read_only=False,
    ),
    lambda call: str(call.arguments["code"]),
)


@dataclass(frozen=True, slots=True)
class _State:
    """What later calls of a session can see. Byte for byte, dumps of equal states differ; the history does not."""

    dump: bytes = b""
    """Empty before the first call."""
    history: bytes = _FRESH
    """SHA-256 chain over the calls that left a trace, with what came back."""

    def after(self, dump: bytes, call: ToolCall, result: ToolResult) -> _State:
        """The state that a call led to."""
        entry = [call.name, dict(call.arguments), result.status.value, result.content]
        text = json.dumps(entry, sort_keys=True, default=str).encode()
        return _State(dump, hashlib.sha256(self.history + text).digest())


class LanguageSandbox:
    """A few workers and any number of sessions. Safe to use from many threads."""

    def __init__(self, config: LanguageConfig, tools: Sequence[CodeTool] = (CALCULATE, CODE)) -> None:
        """Start the workers; they take no time while nobody calls.

        Raises:
            InvalidTool: a tool declares another trust, or two have one name.
            IsolationUnavailable: the worker program cannot be found or started.
        """
        self._config = config
        self._tools = by_name(tools, Trust.LANGUAGE)
        try:
            self._pool = Monty(
                binary_path=config.worker,
                min_processes=config.workers,
                max_processes=config.workers,
                checkout_timeout=config.queue_seconds,
                max_checkouts_per_worker=_CHECKOUTS_PER_WORKER,
            )
            self._pool.__enter__()
        except (OSError, RuntimeError) as error:
            raise IsolationUnavailable(
                f"language sandbox: its worker does not start ({error}); install steptool[language] again"
            ) from error
        self._closed = False

    @property
    def trust(self) -> Trust:
        return Trust.LANGUAGE

    @property
    def level(self) -> IsolationLevel:
        return IsolationLevel.LANGUAGE

    @property
    def closed(self) -> bool:
        """Whether `close` was called; it ends every session."""
        return self._closed

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def open(self, host: Mapping[str, HostTool] | None = None) -> LanguageSession:
        """A fresh session; `host` are the tools that its code may call as functions, by name."""
        return LanguageSession(self, _State(), host or {})

    def fork(self, snapshot: Snapshot, host: Mapping[str, HostTool] | None = None) -> LanguageSession:
        """A session that continues from a snapshot. Host tools are the world's, not the snapshot's: give them anew.

        Raises:
            ForkDiverged: the snapshot is damaged, another tier's, or another version's.
        """
        state = _restored(snapshot)
        if state.dump:
            with self._worker() as worker:
                try:
                    worker.load_session(state.dump)
                except MontyError as error:
                    raise ForkDiverged(f"language session: its snapshot cannot be loaded here ({error})") from error
        return LanguageSession(self, state, host or {})

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._pool.__exit__(None, None, None)

    def run(self, state: _State, call: ToolCall, host: Mapping[str, HostTool]) -> tuple[ToolResult, _State]:
        """Run one call in a state; gives the state that it led to, which is the same one if the call was undone."""
        tool = admit(self._tools, call)
        if isinstance(tool, ToolResult):
            return tool, state
        started = time.monotonic()
        turn = _Turn(self._config, HostCalls(host, call.id))
        try:
            with self._worker() as worker:
                dump = turn.play(worker, state.dump, tool.source(call))
        except (OSError, MontyCrashedError) as error:
            # No worker came free in time, or it died; the kernel then knows no such process.
            turn.lose(error)
            dump = None
        turn.host.raise_defect()
        result = ToolResult(
            call.id,
            turn.status,
            observation(turn.output, turn.error, self._config.output_bytes),
            turn.cpu_seconds,
            time.monotonic() - started,
            self.level,
        )
        return result, state if dump is None else state.after(dump, call, result)

    @contextmanager
    def _worker(self) -> Iterator[MontySession]:
        """A worker with an empty session. Raises `TimeoutError` where none comes free in time."""
        config = self._config
        with self._pool.checkout(
            limits={
                "max_feed_duration_secs": config.wall_seconds,
                "max_memory": config.memory_bytes,
                "max_recursion_depth": config.recursion,
                "max_suspensions": config.host_calls,
            },
            os_policy={"datetime": _NOON, "sleep": "zero", "random_start": {"seed": 0}},
        ) as session:
            yield session


class LanguageSession:
    """One trajectory's variables. Not thread-safe: one trajectory makes one call at a time."""

    def __init__(self, sandbox: LanguageSandbox, state: _State, host: Mapping[str, HostTool]) -> None:
        self._sandbox = sandbox
        self._state = state
        self._host = host
        self._closed = False

    def call(self, call: ToolCall) -> ToolResult:
        self._check_open()
        result, self._state = self._sandbox.run(self._state, call, self._host)
        return result

    def state_hash(self) -> str:
        """Of the history: calls that were undone, and calls that never ran, do not count."""
        self._check_open()
        return self._state.history.hex()

    def snapshot(self) -> Snapshot:
        self._check_open()
        state = self._state
        return Snapshot(state.history + hashlib.sha256(state.dump).digest() + state.dump, state.history.hex())

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed or self._sandbox.closed:
            raise LeaseLost("language session: it was closed; open another")


class _Turn:
    """One call on one worker: its limits, its output and how it ended. Mutable, used once."""

    def __init__(self, config: LanguageConfig, host: HostCalls) -> None:
        self._config = config
        self._room = config.output_bytes + 1
        self._parts: list[str] = []
        self.host = host
        self.status = CallStatus.OK
        self.error = ""
        self.cpu_seconds = 0.0

    @property
    def output(self) -> str:
        """What was printed; of what is longer than the limit, enough to see that it is."""
        return "".join(self._parts)

    def play(self, worker: MontySession, dump: bytes, source: str) -> bytes | None:
        """Run `source` on the session of `dump`; gives the new dump, or None where the call is undone.

        Raises:
            MontyCrashedError: the worker died.
        """
        started = _confine(worker, self._config.cpu_seconds)
        try:
            if dump:
                worker.load_session(dump)
            # The value of the last expression stays inside: nothing of it is printed, and it may be large.
            worker.feed_run(f"{source}\nNone", external_lookup=self.host.functions(), print_callback=self._print)
        except MontyCrashedError:
            raise
        except MontyError as error:
            self._fail(error)
        self.cpu_seconds = _cpu_seconds(worker) - started
        if self.host.lost is not None:
            self.status, self.error = CallStatus.INFRA_ERROR, self.host.lost
        undone = (CallStatus.TIMEOUT, CallStatus.OUT_OF_MEMORY, CallStatus.INFRA_ERROR)
        return None if self.status in undone else self._dump(worker)

    def lose(self, error: Exception) -> None:
        """The worker died, or there was none."""
        if _OUT_OF_CPU in str(error) or getattr(error, "timed_out", False):
            self.status, self.error = CallStatus.TIMEOUT, "out of time"
            self.cpu_seconds = float(self._config.cpu_seconds)
        else:
            self.status, self.error = CallStatus.INFRA_ERROR, f"the worker was lost: {error}"

    def _dump(self, worker: MontySession) -> bytes | None:
        try:
            return worker.dump()
        except MontyCrashedError:
            raise
        except MontyError as error:
            self._fail(error)
            return None

    def _fail(self, error: MontyError) -> None:
        self.error = _told(error)
        self.status = _status(self.error)
        fixed = {CallStatus.TIMEOUT: "out of time", CallStatus.OUT_OF_MEMORY: "out of memory"}
        self.error = fixed.get(self.status, self.error)

    def _print(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        if self._room > 0:
            self._parts.append(text[: self._room])
            self._room -= len(text)


def _confine(worker: MontySession, cpu_seconds: int) -> float:
    """Limits of the kernel around a worker: no new file or socket, no byte to a file, and a CPU budget.

    Gives the CPU seconds that the worker used so far.
    """
    pid = _pid(worker)
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.prlimit(pid, limit, (0, 0))
    used = _cpu_seconds(worker)
    resource.prlimit(pid, resource.RLIMIT_CPU, (int(used) + 1 + cpu_seconds, resource.RLIM_INFINITY))
    return used


def _cpu_seconds(worker: MontySession) -> float:
    # The kernel's number of another process's CPU clock (clock_getcpuclockid).
    return time.clock_gettime((~_pid(worker) << 3) | 2)


def _pid(worker: MontySession) -> int:
    pid = worker.worker_pid
    if pid is None:
        raise TimeoutError("the worker has no process")
    return pid


def _told(error: MontyError) -> str:
    """`ValueError: what was wrong`, on one line."""
    display = getattr(error, "display", None)
    told = display("type-msg") if display is not None else str(error)
    return " ".join(told.split())


def _status(error: str) -> CallStatus:
    kind, _, message = error.partition(": ")
    if kind == "TimeoutError" and "time limit exceeded" in message:
        return CallStatus.TIMEOUT
    if kind == "MemoryError":
        return CallStatus.OUT_OF_MEMORY
    refused = kind in ("PermissionError", "ModuleNotFoundError") or "not supported in this environment" in message
    return CallStatus.DENIED if refused else CallStatus.TOOL_ERROR


def _restored(snapshot: Snapshot) -> _State:
    data = snapshot.data
    history, digest, dump = data[:_DIGEST_BYTES], data[_DIGEST_BYTES : 2 * _DIGEST_BYTES], data[2 * _DIGEST_BYTES :]
    if history.hex() != snapshot.state_hash or digest != hashlib.sha256(dump).digest():
        raise ForkDiverged(
            f"language session: its snapshot of state {snapshot.state_hash[:12]} is damaged or another tier's; "
            "fork it where it was taken"
        )
    return _State(dump, history)
