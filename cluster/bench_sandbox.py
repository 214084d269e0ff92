"""`steptool bench sandbox`: what a tool call costs in each tier, beside the plain thing that it is built on.

Owns the measurement. The ratios to a bare subprocess and to a fresh bubblewrap are taken in alternating blocks on the
same machine; each is reported with the spread over the blocks. Nothing here is used by training.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.progress import Progress

from cluster.launch import ray_session
from tool_sandbox.config import LanguageConfig, PoolConfig, SandboxConfig
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.isolation.command import PYTHON, as_user, bubblewrap, memory_file
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import reach
from tool_sandbox.isolation.python_tool import NOTEBOOK, NOTEBOOK_SPEC
from tool_sandbox.isolation.python_tool import PYTHON as PYTHON_TOOL
from tool_sandbox.isolation.seccomp import assemble
from tool_sandbox.isolation.stateful import StatefulSandbox
from tool_sandbox.isolation.syscalls import SUPERVISOR
from tool_sandbox.language import CODE as CODE_TOOL
from tool_sandbox.language import LanguageSandbox
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.policies import OraclePolicy
from tool_sandbox.pool import RaySandboxPool, start_sandboxes, stop_sandboxes
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall

BLOCKS = 12
CALLS_IN_BLOCK = 20
CALLS_OF_A_TRAJECTORY = 8
"""In one session of the language tier: what it carries from call to call grows."""
THROUGHPUT_SECONDS = 5.0
SESSIONS_AT_ONCE = (1, 2, 8, 64)
CODE = "print(6 * 7)"
_CALL = ToolCall("bench", PYTHON_TOOL.spec.name, {"code": CODE})
_NOTE = ToolCall("bench", NOTEBOOK_SPEC.name, {"code": "x = 6 * 7"})


def bench_sandbox(sessions: int, soak_calls: int) -> Mapping[str, Any]:
    """Measure every tier. `sessions`: stateful ones to hold open at once; `soak_calls`: stateless calls in a row."""
    console = Console(stderr=True)
    config = SandboxConfig(max_stateful_sessions=sessions)
    level = reach(config).level
    console.print(f"isolation level: {level.value}")
    return {
        "level": level.value,
        "cpus": len(os.sched_getaffinity(0)),
        **_trusted(console),
        **_language(console),
        **_isolated(config, level, console),
        **_stateful(config, level, console),
        "calls_per_second": _throughput(config, level, console),
        **_many_sessions(config, level, sessions, console),
        **_soak(config, level, soak_calls, console),
    }


def _trusted(console: Console) -> Mapping[str, float]:
    """T0: ledger calls through a pool actor, beside calls of an actor that does nothing."""
    console.print("T0: ledger calls through a Ray actor")
    pool_config = PoolConfig()
    # Ray's processes are gone before memory is measured.
    with ray_session():
        handles = start_sandboxes(1, pool_config, {"num_cpus": 0})
        idle: Any = ray.remote(_Nothing).options(num_cpus=0).remote()
        try:
            pool = RaySandboxPool({"sandbox-0": handles[0]}, pool_config)
            return {"t0_p50_ms": asyncio.run(_trusted_calls(pool)), "ray_call_p50_ms": asyncio.run(_empty_calls(idle))}
        finally:
            stop_sandboxes([*handles, idle])


class _Nothing:
    """An actor like the pool's, without a pool."""

    async def call(self, lease: str, call: ToolCall) -> None:
        return


async def _empty_calls(idle: Any) -> float:
    seconds: list[float] = []
    for _ in range(BLOCKS * CALLS_IN_BLOCK):
        started = time.perf_counter()
        await idle.call.remote("lease", _CALL)
        seconds.append(time.perf_counter() - started)
    return _milliseconds(statistics.median(seconds))


async def _trusted_calls(pool: RaySandboxPool) -> float:
    ledger = LedgerToolset()
    task = ledger.sample_task(Split.TRAIN, "L2", 0)
    call = demonstrate(ledger, task, OraclePolicy(), max_steps=8).actions[0]
    lease = await pool.open(task)
    seconds: list[float] = []
    for _ in range(BLOCKS * CALLS_IN_BLOCK):
        started = time.perf_counter()
        await pool.call(lease, call)
        seconds.append(time.perf_counter() - started)
    return _milliseconds(statistics.median(seconds))


def _language(console: Console) -> Mapping[str, float]:
    """T1: programs in an interpreter without a system; the first call of a session, and the next ones."""
    console.print("T1: programs in the language tier")
    sandbox = LanguageSandbox(LanguageConfig(), [CODE_TOOL])
    call = ToolCall("bench", CODE_TOOL.spec.name, {"code": "6 * 7"})
    try:
        sandbox.open().call(call)
        fresh = [_seconds(lambda: sandbox.open().call(call)) for _ in range(BLOCKS * CALLS_IN_BLOCK)]
        warm: list[float] = []
        for _ in range(BLOCKS * CALLS_IN_BLOCK // CALLS_OF_A_TRAJECTORY):
            session = sandbox.open()
            warm += [_seconds(lambda session=session: session.call(call)) for _ in range(CALLS_OF_A_TRAJECTORY)]
    finally:
        sandbox.close()
    return {
        "t1_p50_ms": _milliseconds(statistics.median(warm)),
        "t1_first_call_p50_ms": _milliseconds(statistics.median(fresh)),
    }


def _isolated(config: SandboxConfig, level: IsolationLevel, console: Console) -> Mapping[str, Any]:
    """T2 beside a bare Python process per call, and beside one in a fresh bubblewrap."""
    console.print("T2: stateless calls, beside a subprocess and a bubblewrap per call")
    sandbox = IsolatedSandbox([PYTHON_TOOL], config, level)
    blocks: dict[str, list[list[float]]] = {"t2": [], "subprocess": [], "bwrap": []}
    runs: dict[str, Callable[[], None]] = {
        "t2": lambda: _expect_ok(sandbox),
        "subprocess": lambda: _run([PYTHON, "-I", "-S", "-c", CODE]),
        "bwrap": lambda: _run_in_bubblewrap(config),
    }
    try:
        for run in runs.values():
            run()
        for _ in range(BLOCKS):
            for name, run in runs.items():
                blocks[name].append([_seconds(run) for _ in range(CALLS_IN_BLOCK)])
    finally:
        sandbox.close()
    calls = sorted(second for block in blocks["t2"] for second in block)
    return {
        "t2_p50_ms": _milliseconds(statistics.median(calls)),
        "t2_p95_ms": _milliseconds(calls[int(0.95 * len(calls))]),
        "subprocess_p50_ms": _milliseconds(statistics.median(s for block in blocks["subprocess"] for s in block)),
        "bwrap_p50_ms": _milliseconds(statistics.median(s for block in blocks["bwrap"] for s in block)),
        "t2_vs_bwrap_speedup": _ratio(blocks["bwrap"], blocks["t2"]),
        "t2_vs_subprocess": _ratio(blocks["subprocess"], blocks["t2"]),
    }


def _stateful(config: SandboxConfig, level: IsolationLevel, console: Console) -> Mapping[str, float]:
    """T3: opening a session with a warm sandbox waiting, and calls in it."""
    console.print("T3: calls in one interpreter")
    sandbox = StatefulSandbox([NOTEBOOK], config, level)
    try:
        time.sleep(2.0)
        opening = _seconds(sandbox.open)
        session = sandbox.open()
        session.call(_NOTE)
        seconds = [_seconds(lambda: session.call(_NOTE)) for _ in range(BLOCKS * CALLS_IN_BLOCK)]
    finally:
        sandbox.close()
    return {"t3_p50_ms": _milliseconds(statistics.median(seconds)), "t3_open_ms": _milliseconds(opening)}


def _throughput(config: SandboxConfig, level: IsolationLevel, console: Console) -> Mapping[str, float]:
    """T2 calls a second, by the number of sessions that call at once."""
    found: dict[str, float] = {}
    for sessions in SESSIONS_AT_ONCE:
        console.print(f"T2: {sessions} sessions at once")
        sandbox = IsolatedSandbox([PYTHON_TOOL], config, level)
        try:
            found[str(sessions)] = round(_calls_in(THROUGHPUT_SECONDS, sandbox, sessions), 1)
        finally:
            sandbox.close()
    return found


def _calls_in(seconds: float, sandbox: IsolatedSandbox, sessions: int) -> float:
    _expect_ok(sandbox)
    counts = [0] * sessions
    end = time.monotonic() + seconds

    def caller(index: int) -> None:
        while time.monotonic() < end:
            _expect_ok(sandbox)
            counts[index] += 1

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _many_sessions(
    config: SandboxConfig, level: IsolationLevel, sessions: int, console: Console
) -> Mapping[str, float | int]:
    """Memory of stateful sessions that are leased and idle, each after one call: their processes' share (PSS)."""
    _raise_file_limit()
    sandbox = StatefulSandbox([NOTEBOOK], config, level)
    try:
        with Progress(console=console) as progress:
            for _ in progress.track(range(sessions), description=f"T3: {sessions} sessions"):
                sandbox.open().call(_NOTE)
        mib = sum(_proportional_mib(pid) for pid in _descendants(os.getpid())) / sessions
    finally:
        sandbox.close()
    return {"idle_session_mib": round(mib, 2), "sessions": sessions}


def _soak(config: SandboxConfig, level: IsolationLevel, calls: int, console: Console) -> Mapping[str, Any]:
    """Stateless calls in a row, and what they left behind."""
    sandbox = IsolatedSandbox([PYTHON_TOOL], config, level)
    try:
        for _ in range(200):
            _expect_ok(sandbox)
        before = _holdings()
        with Progress(console=console) as progress:
            for _ in progress.track(range(calls), description=f"soak: {calls} calls"):
                _expect_ok(sandbox)
        after = _holdings()
    finally:
        sandbox.close()
    grown = {name: round(after[name] - before[name], 2) for name in after}
    leaks = sum(grown[name] > allowed for name, allowed in _ALLOWED_GROWTH.items())
    return {"soak_calls": calls, "soak_growth": grown, "leaks": leaks}


_ALLOWED_GROWTH = {"processes": 0, "descriptors": 0, "temporary_files": 0, "mib": 4.0}
"""MiB: allocators keep some pages; a leak of one byte a call would be 0.1 MiB in 100,000 calls, of a KiB 100."""


def _holdings() -> dict[str, float]:
    """What this process and its sandboxes hold now."""
    own = [os.getpid(), *_descendants(os.getpid())]
    return {
        "processes": len(own),
        "descriptors": sum(_descriptors(pid) for pid in own),
        "temporary_files": len(list(Path(tempfile.gettempdir()).glob("steptool-sandbox-*"))),
        "mib": sum(_proportional_mib(pid) for pid in own),
    }


def _descendants(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in _words(task)]
    return [*children, *(grandchild for child in children for grandchild in _descendants(child))]


def _proportional_mib(pid: int) -> float:
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """Of a file in /proc, empty for a process that ended meanwhile."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _raise_file_limit() -> None:
    """A session holds four descriptors; the usual limit of 1024 would end at 250."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _expect_ok(sandbox: IsolatedSandbox) -> None:
    result = sandbox.run(_CALL)
    if (result.status, result.content) != (CallStatus.OK, "42"):
        raise RuntimeError(f"benchmark: {CODE!r} gave {result.status.value}: {result.content!r}; expected 42")


def _run(command: list[str], **options: Any) -> None:
    found = subprocess.run(command, capture_output=True, check=True, timeout=60, **options)
    if found.stdout != b"42\n":
        raise RuntimeError(f"benchmark: {command[0]} gave {found.stdout!r}; expected 42")


def _run_in_bubblewrap(config: SandboxConfig) -> None:
    with memory_file(assemble(SUPERVISOR)) as program:
        outer = [*as_user(config), *bubblewrap(config, program.fileno())]
        _run([*outer, PYTHON, "-I", "-S", "-c", CODE], env={}, pass_fds=(program.fileno(),))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _ratio(slow: list[list[float]], fast: list[list[float]]) -> Mapping[str, float]:
    """How many times faster, by blocks: the median and the extremes."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(slow, fast, strict=True)]
    spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: round(value, 2) for name, value in spread.items()}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
