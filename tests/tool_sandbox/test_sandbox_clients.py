"""One suite for both sandbox clients, in process and over Ray; then what only Ray can get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError

from tool_sandbox.audit_check import verify
from tool_sandbox.client import LocalSandbox, SandboxClient
from tool_sandbox.config import FileAudit, PoolConfig
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.errors import CorruptTask, IsolationUnavailable, LeaseLost, SandboxFull, SandboxUnavailable
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.policies import OraclePolicy
from tool_sandbox.session import Session
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallOutcome, CallStatus, IsolationLevel, ToolCall

CONFIG = PoolConfig(max_sessions=2, lease_seconds=60.0, queue_seconds=0.2, open_seconds=20.0, call_seconds=20.0)
LEDGER = LedgerToolset()
OPTIONS = {"num_cpus": 0}


def task(index: int = 0, level: str = "L3") -> Task:
    return LEDGER.sample_task(Split.TRAIN, level, index)


@pytest.fixture(scope="module")
def pool(ray_local: str) -> Iterator[Any]:
    """One actor for all tests: before it serves, it is attacked for seconds."""
    from tool_sandbox.pool import RaySandboxPool, start_sandboxes, stop_sandboxes

    namespace = f"{ray_local}-shared"
    handles = start_sandboxes(1, CONFIG, OPTIONS | {"namespace": namespace})
    yield RaySandboxPool.connect(1, CONFIG, namespace)
    stop_sandboxes(handles)


@pytest.fixture(params=["local", "ray"])
def client(request: pytest.FixtureRequest) -> SandboxClient:
    return LocalSandbox(CONFIG) if request.param == "local" else request.getfixturevalue("pool")


async def test_a_task_is_solved_through_the_client(client: SandboxClient) -> None:
    plan = demonstrate(LEDGER, task(), OraclePolicy(), max_steps=8)
    lease = await client.open(task())
    assert await client.state_hash(lease) == LEDGER.open(task()).state_hash()
    for call, expected in zip(plan.actions, plan.outcomes, strict=True):
        outcome = await client.call(lease, call)
        assert (outcome.result.content, outcome.progress) == (expected.result.content, expected.progress)
    assert await client.state_hash(lease) == task().ground_truth.state_hash
    await client.close(lease)


async def test_sessions_of_one_task_are_apart(client: SandboxClient) -> None:
    first, second = await client.open(task()), await client.open(task())
    for call in demonstrate(LEDGER, task(), OraclePolicy(), max_steps=8).actions:
        await client.call(first, call)
    assert await client.state_hash(second) == LEDGER.open(task()).state_hash()
    await client.close(first)
    await client.close(second)


async def test_a_full_sandbox_is_a_typed_error_until_a_session_is_closed(client: SandboxClient) -> None:
    leases = [await client.open(task(index)) for index in range(2)]
    with pytest.raises(SandboxFull):
        await client.open(task(2))
    await client.close(leases[0])
    await client.close(leases[0])
    await client.close(await client.open(task(2)))
    await client.close(leases[1])


async def test_a_session_is_forked_at_any_step(client: SandboxClient) -> None:
    plan = demonstrate(LEDGER, task(), OraclePolicy(), max_steps=8)
    lease = await client.open(task())
    await client.call(lease, plan.actions[0])
    fork = await client.fork(lease)
    assert await client.state_hash(fork) == await client.state_hash(lease)
    for call in plan.actions[1:]:
        await client.call(fork, call)
    assert await client.state_hash(fork) == task().ground_truth.state_hash
    assert await client.state_hash(lease) != task().ground_truth.state_hash
    await client.close(fork)
    await client.close(lease)


async def test_whoever_waits_gets_the_session_that_another_gives_back(client: SandboxClient) -> None:
    leases = [await client.open(task(index)) for index in range(2)]
    waiting = asyncio.create_task(client.open(task(2)))
    await asyncio.sleep(0.05)
    await client.close(leases[0])
    await client.close(await waiting)
    await client.close(leases[1])


async def test_a_call_on_a_lost_lease_is_an_infrastructure_failure(client: SandboxClient) -> None:
    lease = await client.open(task())
    await client.close(lease)
    outcome = await client.call(lease, ToolCall("c7", "pay", {"order": "A17"}))
    assert (outcome.result.status, outcome.result.call_id) == (CallStatus.INFRA_ERROR, "c7")
    assert outcome.progress is None
    with pytest.raises(LeaseLost):
        await client.state_hash(lease)


async def test_a_world_without_a_user_says_nothing_and_leaves_the_verdict_to_the_ground_truth(
    client: SandboxClient,
) -> None:
    lease = await client.open(task())
    assert await client.user_turn(lease) is None
    assert await client.verdict(lease, "done") is None
    await client.close(lease)
    with pytest.raises(LeaseLost):
        await client.user_turn(lease)
    with pytest.raises(LeaseLost):
        await client.verdict(lease, "done")


async def test_a_corrupt_task_is_an_error_of_its_own_type(client: SandboxClient) -> None:
    with pytest.raises(CorruptTask, match="sample the task again"):
        await client.open(replace(task(), payload={}))


async def test_an_actor_publishes_its_level_and_keeps_a_log_of_its_own(ray_local: str, tmp_path: Path) -> None:

    from tool_sandbox.pool import RaySandboxPool, await_sandboxes, create_sandboxes, stop_sandboxes

    config = CONFIG.model_copy(update={"audit": FileAudit(path=tmp_path / "audit.jsonl", sync_seconds=0)})
    handles = create_sandboxes(1, config, OPTIONS)
    try:
        (health,) = await_sandboxes(handles)
        assert (health.level, health.canaries > 20, health.occupancy.open) == (IsolationLevel.NAMESPACES, True, 0)
        pool = RaySandboxPool.connect(1, config, ray_local, owner="run-7")
        isolated = replace(task(), tools=(*task().tools, "python"))
        lease = await pool.open(isolated)
        outcome = await pool.call(lease, ToolCall("c", "python", {"code": "print(6 * 7)"}))
        assert (outcome.result.content, outcome.result.isolation) == ("42", IsolationLevel.NAMESPACES)
        await pool.close(lease)
    finally:
        stop_sandboxes(handles)
    path = tmp_path / "audit-sandbox-0.jsonl"
    record = json.loads(path.read_text())
    assert (record["owner"], record["tool"], record["isolation"]) == ("run-7", "python", "namespaces")
    assert verify(path).intact


def test_an_actor_on_a_machine_that_isolates_too_little_is_refused_with_the_reason(ray_local: str) -> None:
    import ray

    from tool_sandbox.pool import await_sandboxes

    class Exposed:
        def ready(self) -> None:
            raise IsolationUnavailable("this machine does not reach the level 'namespaces'")

    exposed: Any = ray.remote(num_cpus=0)(Exposed).remote()
    with pytest.raises(IsolationUnavailable, match="does not reach"):
        await_sandboxes([exposed], 30.0)

    def ask_until_it_is_gone() -> None:
        # `ray.kill` returns before the actor is.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(IsolationUnavailable):
                ray.get(exposed.ready.remote(), timeout=30)

    with pytest.raises(RayActorError):
        ask_until_it_is_gone()


async def test_new_sessions_go_round_the_actors_and_skip_the_dead(ray_local: str) -> None:
    import ray

    from tool_sandbox.pool import RaySandboxPool, start_sandboxes, stop_sandboxes

    handles = start_sandboxes(2, CONFIG, OPTIONS | {"max_restarts": 0})
    try:
        pool = RaySandboxPool.connect(2, CONFIG, ray_local)
        leases = [await pool.open(task(index)) for index in range(2)]
        assert [lease.split("/")[0] for lease in leases] == ["sandbox-0", "sandbox-1"]

        ray.kill(handles[0])
        outcome = await pool.call(leases[0], ToolCall("c", "pay", {"order": "A17"}))
        assert outcome.result.status is CallStatus.INFRA_ERROR
        with pytest.raises(LeaseLost, match="sandbox-0 is gone"):
            await pool.state_hash(leases[0])
        await pool.close(leases[0])
        assert (await pool.open(task(2))).startswith("sandbox-1/")
        with pytest.raises(SandboxFull, match="none of 2 actors has room"):
            await pool.open(task(3))

        ray.kill(handles[1])
        with pytest.raises(SandboxUnavailable, match=r"none of .* answered"):
            await pool.open(task(3))
    finally:
        stop_sandboxes(handles)


async def test_a_worker_that_ray_ended_for_want_of_memory_is_an_infrastructure_failure(ray_local: str) -> None:
    import ray
    from ray.exceptions import OutOfMemoryError

    from tool_sandbox.pool import RaySandboxPool

    class Starved:
        def call(self, lease: str, call: ToolCall) -> None:
            raise OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")

    starved: Any = ray.remote(num_cpus=0)(Starved).remote()
    try:
        pool = RaySandboxPool({"sandbox-0": starved}, CONFIG)
        outcome = await pool.call("sandbox-0/x", ToolCall("c", "pay", {}))
        assert outcome.result.status is CallStatus.INFRA_ERROR
    finally:
        ray.kill(starved)


async def test_calls_are_counted_by_tool_and_status() -> None:
    sandbox = LocalSandbox(CONFIG)
    lease = await sandbox.open(task(), "run-1")
    plan = demonstrate(LEDGER, task(), OraclePolicy(), max_steps=8)
    await sandbox.call(lease, plan.actions[0])
    for invented in ("frobnicate", "defenestrate"):
        await sandbox.call(lease, ToolCall("c", invented, {}))
    counted = {key: costs.calls for key, costs in sandbox.costs().items()}
    assert counted == {(plan.actions[0].name, CallStatus.OK): 1, ("", CallStatus.UNKNOWN_TOOL): 2}
    assert (sandbox.occupancy().sessions, sandbox.occupancy().waiting) == ({"run-1": 1}, 0)
    await sandbox.close(lease)


async def test_a_silent_actor_costs_one_deadline(ray_local: str) -> None:
    import time

    import ray

    from tool_sandbox.pool import RaySandboxPool

    class Sleeper:
        def open(self, task: Task, owner: str, wait_seconds: float) -> str:
            time.sleep(30)
            return "late"

    sleeper: Any = ray.remote(num_cpus=0)(Sleeper).remote()
    try:
        pool = RaySandboxPool({"sandbox-0": sleeper}, replace_seconds(CONFIG, 0.3))
        started = time.monotonic()
        with pytest.raises(SandboxUnavailable, match="TimeoutError"):
            await pool.open(task())
        assert time.monotonic() - started < 10
    finally:
        ray.kill(sleeper)


async def test_an_actor_that_hangs_is_replaced(ray_local: str) -> None:
    """Ray restarts what dies. A stopped process does not die, and would swallow its share of sessions for ever."""
    from tool_sandbox.pool import RaySandboxPool, start_sandboxes, stop_sandboxes

    config = replace_seconds(CONFIG, 1.0).model_copy(update={"silent_seconds": 1.0})
    (actor,) = start_sandboxes(1, config, OPTIONS | {"namespace": f"{ray_local}-hung"})
    try:
        pool = RaySandboxPool({"sandbox-0": actor}, config)
        os.kill(pid := await process_of(actor), signal.SIGSTOP)
        with pytest.raises(SandboxUnavailable, match="TimeoutError"):
            await pool.open(task())
        assert await asyncio.wait_for(successor(actor, pid), 60) != pid
    finally:
        stop_sandboxes([actor])


async def process_of(actor: Any) -> int:
    return await actor.__ray_call__.remote(lambda actor: os.getpid())


async def successor(actor: Any, before: int) -> int:
    while True:
        try:
            if (pid := await process_of(actor)) != before:
                return pid
        except RayActorError:
            await asyncio.sleep(0.2)


async def test_a_tool_that_never_returns_is_counted_as_hung() -> None:
    released = threading.Event()

    class Endless:
        def call(self, call: ToolCall) -> CallOutcome:
            released.wait(30)
            raise AssertionError

    async def at_a_call(sandbox: LocalSandbox) -> asyncio.Task[CallOutcome]:
        return asyncio.create_task(sandbox.call(await sandbox.open(task()), ToolCall("c", "pay", {})))

    hasty, patient = (
        LocalSandbox(replace_seconds(CONFIG, seconds), opener=lambda task: cast(Session, Endless()))
        for seconds in (0.1, 600.0)
    )
    calls = [await at_a_call(sandbox) for sandbox in (hasty, patient)]
    await asyncio.sleep(0.5)
    assert (hasty.hung(), patient.hung()) == (1, 0)
    released.set()
    assert all(isinstance(error, AssertionError) for error in await asyncio.gather(*calls, return_exceptions=True))
    assert hasty.hung() == 0


def replace_seconds(config: PoolConfig, seconds: float) -> PoolConfig:
    return config.model_copy(update={"open_seconds": seconds, "call_seconds": seconds})


def test_connecting_to_actors_that_do_not_exist_names_them(ray_local: str) -> None:
    from tool_sandbox.pool import RaySandboxPool

    with pytest.raises(SandboxUnavailable, match=r"'sandbox-7'.*start them with start_sandboxes"):
        RaySandboxPool.connect(8, CONFIG, ray_local)


def test_actors_that_do_not_fit_are_refused_after_the_deadline(ray_local: str) -> None:
    from tool_sandbox.pool import start_sandboxes

    with pytest.raises(SandboxUnavailable, match="1 actors did not all start in 1 s"):
        start_sandboxes(1, CONFIG, {"num_cpus": 500}, deadline_seconds=1.0)
