"""When a second replica comes under load, and what it costs: the part of `steptool bench rewards` that scales.

One replica of the service, two at most, and callers who leave it no pause. What is told is when the second was there,
and what became of the requests meanwhile. How the service goes down again takes Serve ten minutes, and is not measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from cluster.http_load import Answers, Target, closed_loop
from cluster.serve_replicas import replicas
from reward_service.config import RewardConfig
from reward_service.scaling import Autoscaling
from reward_service.serve_app import RewardReplica, start_rewards, stop_rewards
from tool_sandbox.http.keys import ApiKeys

APPLICATION = "scaled"
CALLERS = 8
AIM = 2.0
"""Requests at work in each replica that Serve aims at: a quarter of what the callers keep at work."""
LOAD_SECONDS = 90.0
"""Serve looks for half a minute before it adds a replica, and a replica has to start."""
_LOOK_SECONDS = 1.0


def bench_autoscaling(body: bytes, console: Console) -> Mapping[str, Any]:
    """Load one replica with requests of this body; on the Ray that is initialised."""
    console.print(f"one replica, two at most, under {CALLERS} callers who never pause, for {LOAD_SECONDS:g} s")
    keys, secret = ApiKeys.issue("bench")
    config = RewardConfig(autoscaling=Autoscaling(max_replicas=2, target_ongoing_requests=AIM))
    service = start_rewards(config, keys, application=APPLICATION)
    score = Target.post(f"{service.url}/v1/score", body, {"Authorization": f"Bearer {secret}"})
    try:
        seconds, answers = asyncio.run(_loaded(score))
    finally:
        stop_rewards(service)
    return {
        "second_replica_seconds": seconds,
        "autoscaling_answers": answers.statuses[200],
        "autoscaling_lost": answers.lost_or_failed,
    }


async def _loaded(score: Target) -> tuple[float | None, Answers]:
    """Seconds of load after which there were two replicas, None where there never were; and what came back."""
    began, second = time.perf_counter(), None
    load = asyncio.create_task(closed_loop(score, CALLERS, LOAD_SECONDS))
    while second is None and not load.done():
        await asyncio.sleep(_LOOK_SECONDS)
        if len(await asyncio.to_thread(replicas, APPLICATION, RewardReplica.name)) > 1:
            second = round(time.perf_counter() - began, 1)
    return second, await load
