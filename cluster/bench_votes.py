"""Whether every vote is cast once: the part of `steptool bench rewards` that has a judge.

Several clients ask a judged service on Ray Serve about many trajectories, some of which read alike, while replicas of
the service are killed. The judge is a stub that counts. What it was asked beyond one call for each vote of each
trajectory is told, and beside it how many of its calls had no asker any more when they were answered.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.serve_replicas import kill_replica
from cluster.stub_judge import StubJudge
from reward_service.client import RewardClient
from reward_service.config import JudgeSignal, RewardConfig, SignalsConfig
from reward_service.errors import RewardCircuitOpen, RewardRejected, RewardUnavailable
from reward_service.serve_app import RewardEndpoint, RewardReplica, start_rewards, stop_rewards
from reward_service.store.config import SqliteStore
from reward_service.wire import ScoredItem, ScoreRequest, TrajectoryItem
from tool_sandbox.http.keys import ApiKeys
from tool_sandbox.http.server import listen

APPLICATION = "votes"
VOTES = 3
DUPLICATES = 0.3
CLIENTS = 4
REPLICAS = 2
ITEMS_A_REQUEST = 8
KILLED_AT = (1 / 3, 2 / 3)
"""Of the answers, when a replica is killed."""
CALL_SECONDS = 120.0
"""Deadline of one call of a client. The claims of a killed replica hold its successor up for half a minute."""
REQUEST_TRIES = 10
_AGAIN_SECONDS = 0.5
_SERVER_ERRORS = 500


@dataclass(slots=True)
class _Tally:
    """What the clients got. Mutable while they ask."""

    kills: list[float]
    """Numbers of answers after which a replica has still to be killed."""
    answers: dict[str, int] = field(default_factory=dict[str, int])
    """By trajectory."""
    asked_again: int = 0
    """Requests that brought no answer, or not to all of their trajectories."""

    async def add(self, names: Iterable[str]) -> None:
        """Count answers, and kill a replica where its time has come."""
        for name in names:
            self.answers[name] = self.answers.get(name, 0) + 1
        if self.kills and len(self.answers) >= self.kills[0]:
            self.kills.pop(0)
            await asyncio.to_thread(kill_replica, APPLICATION, RewardReplica.name)


def bench_votes(items: int, console: Console) -> Mapping[str, Any]:
    """Ask about `items` trajectories; on the Ray that is initialised."""
    console.print(f"{items} trajectories, {DUPLICATES:.0%} of them twice, for a judge with {VOTES} votes")
    keys, secret = ApiKeys.issue("bench")
    with tempfile.TemporaryDirectory(prefix="steptool-votes-") as directory, listen("127.0.0.1", 0) as listener:
        stub = StubJudge(listener)
        service = start_rewards(_config(stub, Path(directory)), keys, application=APPLICATION)
        try:
            return asyncio.run(_measured(service, secret, stub, items))
        finally:
            stop_rewards(service)


def _config(stub: StubJudge, directory: Path) -> RewardConfig:
    signal = JudgeSignal()
    return RewardConfig(
        signals=SignalsConfig(success=signal, contribution=signal, solved=signal),
        judge=stub.config(VOTES),
        store=SqliteStore(path=directory / "votes.sqlite"),
        replicas=REPLICAS,
        score_seconds=CALL_SECONDS,
    )


async def _measured(service: RewardEndpoint, secret: str, stub: StubJudge, items: int) -> dict[str, Any]:
    unique = max(1, round(items * (1 - DUPLICATES)))
    order = random.Random(0).sample(range(items), items)
    tally, began = _Tally([share * items for share in KILLED_AT]), time.perf_counter()
    async with stub.serving(), asyncio.TaskGroup() as tasks:
        for client in range(CLIENTS):
            tasks.create_task(_client(service, secret, order[client::CLIENTS], unique, tally))
    calls = stub.calls.total()
    return {
        "vote_items": items,
        "vote_unique_items": unique,
        "votes_each": VOTES,
        "judge_calls": calls,
        "duplicate_judge_calls": calls - unique * VOTES,
        "judge_calls_cut_off": stub.cut_off,
        "items_answered_once": sum(count == 1 for count in tally.answers.values()),
        "requests_asked_again": tally.asked_again,
        "replicas_killed": len(KILLED_AT) - len(tally.kills),
        "vote_seconds": round(time.perf_counter() - began, 1),
    }


async def _client(service: RewardEndpoint, secret: str, numbers: Sequence[int], unique: int, tally: _Tally) -> None:
    async with RewardClient(service.url, secret, CALL_SECONDS) as client:
        for start in range(0, len(numbers), ITEMS_A_REQUEST):
            wanted = [_trajectory(number, unique) for number in numbers[start : start + ITEMS_A_REQUEST]]
            for _ in range(REQUEST_TRIES):
                wanted = await _unanswered(client, wanted, tally)
                if not wanted:
                    break
                tally.asked_again += 1
                await asyncio.sleep(_AGAIN_SECONDS)


async def _unanswered(client: RewardClient, wanted: Sequence[TrajectoryItem], tally: _Tally) -> list[TrajectoryItem]:
    """Ask once; the trajectories that have no score after it."""
    try:
        response = await client.score(ScoreRequest(trajectories=tuple(wanted)))
    except RewardCircuitOpen as error:
        await asyncio.sleep(error.seconds)
        return list(wanted)
    except RewardUnavailable:
        return list(wanted)
    except RewardRejected as error:
        if error.status < _SERVER_ERRORS:
            raise
        return list(wanted)
    scored = {result.id for result in response.results if isinstance(result, ScoredItem)}
    await tally.add(scored)
    return [item for item in wanted if item.id not in scored]


def _trajectory(number: int, unique: int) -> TrajectoryItem:
    """A call and an answer; trajectories whose numbers differ by `unique` read alike."""
    text = f"{number % unique}"
    call = {"name": "price", "arguments": {"item": f"lamp {text}"}}
    return TrajectoryItem.model_validate(
        {
            "id": f"t-{number}",
            "task": {"id": "votes", "prompt": f"What does lamp {text} cost?"},
            "steps": [
                {"index": 0, "call": call, "status": "ok", "observation": f"{text} EUR"},
                {"index": 1, "answer": text},
            ],
            "stop": "answered",
        }
    )
