"""Tools of one task that run in different tiers, each where its trust says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tool_sandbox.mixed_tools import DOUBLE, TOOLS
from tool_sandbox.client import LocalSandbox
from tool_sandbox.config import PoolConfig, SandboxConfig
from tool_sandbox.errors import InvalidTool, LeaseLost
from tool_sandbox.isolation.python_tool import PYTHON
from tool_sandbox.jsonl import JsonlToolset
from tool_sandbox.jsonl.sources import FunctionSession, FunctionSource
from tool_sandbox.leases import SessionTable
from tool_sandbox.sandbox import CodeTool
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tiers import Tiers, TierSettings, process_tiers, use_tiers
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolSpec, Trust

SETTINGS = TierSettings(SandboxConfig(cpu_seconds=1, wall_seconds=2, workers=1), IsolationLevel.NAMESPACES)


@pytest.fixture(autouse=True, scope="module")
def tiers() -> Iterator[None]:
    before = process_tiers().settings
    use_tiers(SETTINGS)
    yield
    use_tiers(before)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    line = {"id": "t", "prompt": "?", "toolset": "tests.tool_sandbox.mixed_tools:TOOLS", "state": {"coins": 5}}
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(line | {"split": "train"}) + "\n")
    return JsonlToolset(path).sample_task(Split.TRAIN, "all", 0)


@pytest.fixture
def table(tmp_path: Path, task: Task) -> SessionTable:
    toolset = JsonlToolset(tmp_path / "tasks.jsonl")
    return SessionTable(4, 60.0, opener=toolset.open)


def answer(table: SessionTable, lease: str, name: str, **arguments: object) -> tuple[str, IsolationLevel]:
    result = table.call(lease, ToolCall("c", name, arguments)).result
    assert result.status is CallStatus.OK, result.content
    return result.content, result.isolation


def test_each_tool_of_a_task_runs_where_its_trust_says(table: SessionTable, task: Task) -> None:
    lease = table.open(task)
    assert answer(table, lease, "earn", coins=5) == ("5", IsolationLevel.NONE)
    assert answer(table, lease, "calculate", expression="6 * 7") == ("42", IsolationLevel.LANGUAGE)
    assert answer(table, lease, "double", number=21) == ("42", IsolationLevel.NAMESPACES)
    assert answer(table, lease, "notebook", code="x = 41")[1] is IsolationLevel.NAMESPACES
    assert answer(table, lease, "notebook", code="x + 1")[0] == "42"
    assert table.state_hash(lease) == task.ground_truth.state_hash
    table.close(lease)


def test_a_fork_takes_every_tier_along(table: SessionTable, task: Task) -> None:
    lease = table.open(task)
    answer(table, lease, "earn", coins=2)
    answer(table, lease, "notebook", code="x = 1")
    fork = table.fork(lease)
    answer(table, fork, "earn", coins=3)
    answer(table, fork, "notebook", code="x += 1")
    assert (answer(table, lease, "earn", coins=0)[0], answer(table, lease, "notebook", code="x")[0]) == ("2", "1")
    assert (answer(table, fork, "earn", coins=0)[0], answer(table, fork, "notebook", code="x")[0]) == ("5", "2")
    table.close(fork)
    table.close(lease)


def test_sessions_share_the_sandboxes_of_their_process(task: Task) -> None:
    source = FunctionSource(tuple(TOOLS))
    first, second = source.open(task, None), source.open(task, None)
    assert isinstance(first, FunctionSession)
    tiers = process_tiers()
    assert tiers.sandbox([PYTHON, DOUBLE]) is tiers.sandbox([PYTHON, DOUBLE])
    for session in (first, second):
        session.close()


def test_a_sandbox_that_is_full_at_a_first_call_is_no_fault_of_the_model(tmp_path: Path, task: Task) -> None:
    use_tiers(TierSettings(SandboxConfig(max_stateful_sessions=1, warm_sessions=0), IsolationLevel.NAMESPACES))
    client = LocalSandbox(PoolConfig(), opener=JsonlToolset(tmp_path / "tasks.jsonl").open)

    async def statuses() -> list[CallStatus]:
        leases = [await client.open(task) for _ in range(2)]
        outcomes = [await client.call(lease, ToolCall("c", "notebook", {"code": "1"})) for lease in leases]
        for lease in leases:
            await client.close(lease)
        return [outcome.result.status for outcome in outcomes]

    assert asyncio.run(statuses()) == [CallStatus.OK, CallStatus.INFRA_ERROR]
    use_tiers(SETTINGS)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidTool, match="tools python: there are two of this name"):
        FunctionSource((PYTHON, PYTHON))


def test_a_program_of_a_trust_without_a_tier_is_refused() -> None:
    spec = ToolSpec("here", "", {"type": "object"}, trust=Trust.IN_PROCESS)
    with pytest.raises(InvalidTool, match="tools here: programs do not run in the tier 'in_process'"):
        Tiers(SETTINGS).sandbox([CodeTool(spec, lambda call: "")])


def test_remote_tools_need_a_service() -> None:
    spec = ToolSpec("far", "", {"type": "object"}, trust=Trust.REMOTE)
    with pytest.raises(InvalidTool, match=r"no service is configured; set sandbox\.remote\.url"):
        Tiers(SETTINGS).sandbox([CodeTool(spec, lambda call: "")])


def test_other_settings_end_the_sandboxes_of_those_before() -> None:
    session = process_tiers().sandbox([PYTHON]).open()
    use_tiers(TierSettings(SETTINGS.isolation, IsolationLevel.LANDLOCK))
    with pytest.raises(LeaseLost, match="closed"):
        session.call(ToolCall("c", "python", {"code": "print(1)"}))
    use_tiers(SETTINGS)


def test_the_same_settings_again_keep_the_sandboxes() -> None:
    before = process_tiers()
    use_tiers(TierSettings(SETTINGS.isolation, SETTINGS.level))
    assert process_tiers() is before
