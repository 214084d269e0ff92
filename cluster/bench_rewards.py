"""`steptool bench rewards`: the reward service on Ray Serve beside a bare echo of the same body, and overloaded.

Owns the measurement of rules; that of a judge is in `bench_votes`, that of scaling in `bench_autoscaling`. The echo is
a deployment with the same limits on the same Serve, and the two are measured in alternating blocks. Nothing here is
used by training.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from ray import serve
from rich.console import Console

from cluster.bench_autoscaling import bench_autoscaling
from cluster.bench_votes import bench_votes
from cluster.http_load import LOST, Answers, Target, closed_loop, open_loop
from cluster.launch import ray_session
from cluster.serve_replicas import kill_replica, replicas, resident_mib
from reward_service.assembly import assembled
from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from reward_service.serve_app import RewardEndpoint, RewardReplica, start_rewards, stop_rewards
from reward_service.service import RewardService
from reward_service.store.config import SqliteStore
from reward_service.wire import ScoreRequest
from tool_sandbox.http import strict_json
from tool_sandbox.http.keys import ApiKeys

STEPS = 8
BLOCKS = 8
BLOCK_SECONDS = 3.0
CONNECTIONS = 8
STEADY_SECONDS = 20.0
STEADY_SHARE = 0.8
KILL_SECONDS = 15.0
OVERLOAD_CALLERS = 320
"""Five times what both replicas work on at once. They ask again at once, whatever `Retry-After` says."""
LOOKS = 6
"""At the memory of the replicas, while they are overloaded."""
REPLICAS = 2
REPEATS = 200
_ECHO = "echo"
_REWARDS = "rewards"


def bench_rewards(overload_seconds: float, vote_items: int) -> Mapping[str, Any]:
    """Measure the service.

    `overload_seconds`: how long callers who never pause ask; `vote_items`: trajectories for the judge.
    """
    console = Console(stderr=True)
    with ray_session():
        return {
            **_by_rules(overload_seconds, console),
            **bench_autoscaling(example(), console),
            **bench_votes(vote_items, console),
        }


def _by_rules(overload_seconds: float, console: Console) -> Mapping[str, Any]:
    keys, secret = ApiKeys.issue("bench")
    rewards = start_rewards(RewardConfig(replicas=REPLICAS), keys, application=_REWARDS)
    try:
        _start_echo()
        return asyncio.run(_measured(rewards, secret, overload_seconds, console))
    finally:
        serve.delete(_ECHO)
        stop_rewards(rewards)


async def _measured(rewards: RewardEndpoint, secret: str, overload_seconds: float, console: Console) -> dict[str, Any]:
    body = example()
    headers = {"Authorization": f"Bearer {secret}"}
    score = Target.post(f"{rewards.url}/v1/score", body, headers)
    echo = Target.post(f"{rewards.url.removesuffix(_REWARDS)}{_ECHO}/", body, headers)
    ratios, rate = await _throughput(score, echo, console)
    console.print(f"steady load: {STEADY_SHARE:.0%} of {rate:.0f} requests a second")
    steady = await open_loop(score, STEADY_SHARE * rate, STEADY_SECONDS, CONNECTIONS * 8)
    console.print(f"overload: {OVERLOAD_CALLERS} callers who never pause, for {overload_seconds:g} s")
    flood, grown = await _overloaded(score, _REWARDS, overload_seconds)
    console.print("the same for the echo")
    _, echo_grown = await _overloaded(echo, _ECHO, overload_seconds)
    console.print("a replica is killed under load")
    killed = await _killed(score)
    return {
        "cpus": len(os.sched_getaffinity(0)),
        **ratios,
        "requests_per_second": round(rate, 1),
        "trajectories_per_request": 1,
        "p50_ms": steady.quantile_ms(0.5),
        "p99_ms": steady.quantile_ms(0.99),
        "steady_statuses": _statuses(steady),
        "overload_times_capacity": round(flood.statuses.total() / overload_seconds / rate, 1),
        "overload_statuses": _statuses(flood),
        "overload_5xx": flood.server_errors,
        "overload_lost": flood.statuses[LOST],
        "overload_p99_ms": flood.quantile_ms(0.99),
        "overload_429_without_retry_after": flood.statuses[429] - flood.retry_after,
        "overload_growth_mib": grown,
        "echo_overload_growth_mib": echo_grown,
        "kill_statuses": _statuses(killed),
        "kill_lost": killed.lost_or_failed,
        **await own_work(body),
    }


def example(steps: int = STEPS) -> bytes:
    """One trajectory: calls that each bring the task one call nearer, and the right answer."""
    turns: list[dict[str, Any]] = [
        {
            "index": i,
            "call": {"name": "price", "arguments": {"item": f"lamp {i}", "currency": "EUR"}},
            "status": "ok",
            "observation": f"The price of lamp {i} is {i}.50 EUR; 12 pieces are in stock at the warehouse in Lyon.",
            "progress": {"before": steps - 1 - i, "after": steps - 2 - i},
        }
        for i in range(steps - 1)
    ]
    task = {"id": "bench", "level": "L4", "ground_truth": {"answer": "42", "minimum_calls": steps - 1}}
    turns.append({"index": steps - 1, "answer": "42"})
    return json.dumps({"trajectories": [{"id": "t-1", "steps": turns, "task": task, "stop": "answered"}]}).encode()


async def _throughput(score: Target, echo: Target, console: Console) -> tuple[dict[str, Any], float]:
    """Requests a second of both, in alternating blocks: their ratio as the last line has it, and the service's rate."""
    rates: dict[str, list[float]] = {"score": [], "echo": []}
    for block in range(BLOCKS + 1):
        for name, target in (("score", score), ("echo", echo)):
            answers = await closed_loop(target, CONNECTIONS, BLOCK_SECONDS)
            _expect_only_good(name, answers)
            # The first block of each warms up.
            if block:
                rates[name].append(answers.statuses[200] / BLOCK_SECONDS)
    own, bare = (statistics.median(rates[name]) for name in ("score", "echo"))
    console.print(f"closed loop: {own:.0f} requests a second, the echo {bare:.0f}")
    return ratios(rates["score"], rates["echo"]), own


def ratios(own: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
    """The median ratio of two rates that were measured in turns, and beside it how far its blocks lie apart."""
    found = [a / b for a, b in zip(own, bare, strict=True)]
    spread = {"min": round(min(found), 3), "max": round(max(found), 3)}
    return {"throughput_ratio": round(statistics.median(found), 3), "throughput_ratio_spread": spread}


async def _overloaded(target: Target, application: str, seconds: float) -> tuple[Answers, list[float]]:
    """What came back, and the growth of all replicas together after each of `LOOKS` equal parts of the time, in MiB.

    Memory that is flat grows at first, while buffers and caches fill, and then no more. What Serve itself takes for
    each request it has seen is what the replicas of the echo grow by.
    """
    pids = [one.pid for one in replicas(application) if one.pid]
    before = resident_mib(pids)
    grown: list[float] = []
    flood = asyncio.create_task(closed_loop(target, OVERLOAD_CALLERS, seconds))
    for _ in range(LOOKS):
        await asyncio.sleep(seconds / LOOKS)
        grown.append(round(resident_mib(pids) - before, 1))
    return await flood, grown


async def _killed(score: Target) -> Answers:
    """Callers who leave both replicas no pause, while one of them is killed with what it was working on."""
    load = asyncio.create_task(closed_loop(score, CONNECTIONS, KILL_SECONDS))
    await asyncio.sleep(KILL_SECONDS / 5)
    await asyncio.to_thread(kill_replica, _REWARDS, RewardReplica.name)
    return await load


def _expect_only_good(name: str, answers: Answers) -> None:
    bad = {status: count for status, count in answers.statuses.items() if status != 200}
    if bad:
        raise RuntimeError(f"benchmark: {name} answered with {bad} where every answer must be 200")


def _statuses(answers: Answers) -> dict[str, int]:
    return {"lost" if status == LOST else str(status): count for status, count in sorted(answers.statuses.items())}


async def own_work(body: bytes, repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """Our own code for one request, without HTTP and Serve: milliseconds by part, and shares of their sum.

    Three states of one service: reading, scoring without a store, and what its store adds. Rules bypass the store, so
    that last part is what it costs to find that out.
    """
    with tempfile.TemporaryDirectory(prefix="steptool-own-work-") as directory:
        config = RewardConfig(store=SqliteStore(path=Path(directory) / "rewards.db"))
        async with assembled(config) as kept:
            spent = await _spent(body, kept.service, repeats)
    total = sum(spent.values())
    return {
        "own_work_ms": {part: round(milliseconds, 4) for part, milliseconds in spent.items()},
        "share_of_own_work": {part: milliseconds / total for part, milliseconds in spent.items()},
    }


async def _spent(body: bytes, kept: RewardService, repeats: int) -> dict[str, float]:
    """Milliseconds by part; answers are written as part of scoring."""
    computed = RewardService(Recipe(RewardConfig()))
    request = ScoreRequest.model_validate_json(body)

    async def validation() -> None:
        ScoreRequest.model_validate(strict_json.loads(body))

    async def scoring() -> None:
        (await computed.score(request)).model_dump_json()

    async def with_store() -> None:
        (await kept.score(request)).model_dump_json()

    read, bare, whole = await _milliseconds([validation, scoring, with_store], repeats)
    return {"validation": read, "scoring": bare, "store": max(0.0, whole - bare)}


async def _milliseconds(parts: Sequence[Callable[[], Awaitable[None]]], repeats: int) -> list[float]:
    """The median of each part; they take turns, so that a busy moment of the machine meets all of them."""
    seconds: list[list[float]] = [[] for _ in parts]
    for _ in range(repeats):
        for part, found in zip(parts, seconds, strict=True):
            began = time.perf_counter()
            await part()
            found.append(time.perf_counter() - began)
    return [1000 * statistics.median(found) for found in seconds]


def _start_echo() -> None:
    app = FastAPI()

    @app.post("/")
    async def echo(request: Request) -> dict[str, Any]:
        return await request.json()

    @serve.deployment(name=_ECHO, num_replicas=REPLICAS, max_ongoing_requests=32, ray_actor_options={"num_cpus": 0.1})
    @serve.ingress(app)
    class Echo:
        pass

    serve.run(Echo.bind(), name=_ECHO, route_prefix=f"/{_ECHO}")
