"""What every replay keeps to: which tasks it opens, when it abstains, its deadline, and how many run at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from reward_service.config import RewardConfig
from reward_service.errors import ScorerUnavailable, UnscorableTrajectory
from reward_service.finding import KeptRewards, content_digest
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.store.once import ComputeAlways
from reward_service.wire import ItemResult, ScoreRequest, TrajectoryItem
from tests.reward_service.builders import trajectory as foreign
from tests.reward_service.judges import config as judge_config
from tests.reward_service.replays import contributions, of_demonstration, oracle, recipe, scored, task
from tool_sandbox.errors import SandboxUnavailable
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.session import LedgerSession
from tool_sandbox.registry import register
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallOutcome, CallStatus, ToolCall, ToolResult

LEAVE_ONE_OUT = {"kind": "leave_one_out"}
METHODS = [LEAVE_ONE_OUT, {"kind": "monte_carlo", "continuations": 2}]
WAY = of_demonstration(oracle(task("L1")))


class Watched(LedgerToolset):
    """The ledger under another name, whose sessions do as the test says and are counted."""

    name = "watched-ledger"
    before_call = staticmethod(lambda: None)
    opened: list[LedgerSession] = []  # noqa: RUF012 - emptied by the fixture
    closed: list[LedgerSession] = []  # noqa: RUF012

    def find_task(self, task_id: str) -> Task:
        return replace(super().find_task(task_id), toolset=self.name)

    def open(self, task: Task) -> LedgerSession:
        session = WatchedSession(task, {})
        Watched.opened.append(session)
        return session


class WatchedSession(LedgerSession):
    def call(self, call: ToolCall) -> CallOutcome:
        lost = Watched.before_call()
        return super().call(call) if lost is None else lost

    def fork(self) -> LedgerSession:
        twin = super().fork()
        Watched.opened.append(twin)
        return twin

    def close(self) -> None:
        Watched.closed.append(self)


@pytest.fixture
def watched() -> Iterator[type[Watched]]:
    register("watched-ledger", Watched)
    Watched.opened.clear()
    Watched.closed.clear()
    yield Watched
    Watched.before_call = staticmethod(lambda: None)


def in_world(toolset: str | None, name: str = "t-1", task_id: str = WAY["task"]["id"]) -> dict[str, Any]:
    return WAY | {"id": name, "task": WAY["task"] | {"toolset": toolset, "id": task_id}}


async def asked(*trajectories: dict[str, Any], deadline_ms: int | None = None) -> tuple[ItemResult, ...]:
    service = RewardService(recipe(LEAVE_ONE_OUT))
    request = {"options": {"deadline_ms": deadline_ms}, "trajectories": trajectories}
    return (await service.score(ScoreRequest.model_validate(request))).results


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"toolset": "legder"}, r"toolset 'legder' is not installed here.*installed are bfcl, ledger, reasoning"),
        ({"toolset": None}, r"task\.toolset is null.*installed are bfcl, ledger"),
        ({"toolset": "jsonl:/tmp/tasks.jsonl"}, "is not installed here"),
        (
            {"toolset": "ledger", "task_id": "ledger/L9/train/0"},
            "cannot be opened again: ledger: split 'train' has no level 'L9'",
        ),
        ({"toolset": "ledger", "task_id": "q-1"}, "expected ledger/LEVEL/SPLIT/INDEX"),
        ({"toolset": "ledger", "task_id": "ledger/L1/train/1"}, "has another ground truth here"),
    ],
)
def test_a_task_that_cannot_be_opened_again_is_the_callers_error_and_says_what_is_installed(method, change, reason):
    with pytest.raises(UnscorableTrajectory, match=reason):
        scored(method, in_world(**change))


async def test_one_such_trajectory_does_not_spoil_its_neighbour():
    bad, good = await asked(in_world("legder", "bad"), in_world("ledger", "good"))
    assert (bad.status, bad.error and bad.error.kind) == ("error", "data")
    assert good.status == "ok"


def test_a_trajectory_without_a_call_needs_no_world():
    steps = [{"index": 0, "answer": "42"}]
    assert contributions(LEAVE_ONE_OUT, foreign(steps=steps)) == [None]


async def test_a_service_that_replays_is_ready():
    await RewardService(recipe(LEAVE_ONE_OUT)).check()


@pytest.mark.parametrize("method", METHODS)
def test_a_replay_that_gives_something_else_abstains_at_every_call_and_says_where(method):
    first, second, answer = WAY["steps"]
    other = in_world("ledger") | {"steps": [first, second | {"observation": "something else"}, answer]}
    found = scored(method, other)
    assert [step.value for step in found.steps] == [None, None, 1.0]
    reason = "abstains: the replay of step 1 ends ok and does not give what was recorded"
    assert [step.why for step in found.steps] == [reason, reason, None]


@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_ran_and_is_refused_in_the_replay_abstains(method):
    first, second, answer = WAY["steps"]
    refused = first | {"call": {"name": "nothing", "arguments": {}}, "observation": None}
    found = scored(method, in_world("ledger") | {"steps": [refused, second, answer]})
    assert found.steps[0].why == "abstains: the replay of step 0 ends unknown_tool and does not give what was recorded"


@pytest.mark.parametrize("method", METHODS)
def test_a_lost_sandbox_is_infrastructure(method, watched):
    watched.before_call = staticmethod(lambda: CallOutcome(ToolResult("c", CallStatus.INFRA_ERROR, "error: gone")))
    with pytest.raises(ScorerUnavailable, match="a call was lost"):
        scored(method, in_world("watched-ledger"))


def test_a_sandbox_that_does_not_come_up_is_infrastructure(watched):
    def gone() -> None:
        raise SandboxUnavailable("no sandbox answered")

    watched.before_call = gone
    with pytest.raises(ScorerUnavailable, match="no sandbox answered"):
        scored(LEAVE_ONE_OUT, in_world("watched-ledger"))


async def test_a_deadline_ends_the_replay_and_the_event_loop_never_waits_for_it(watched):
    stuck = threading.Event()
    watched.before_call = staticmethod(lambda: stuck.wait(60) and None)
    waiting = asyncio.create_task(asked(in_world("watched-ledger"), deadline_ms=200))
    await asyncio.sleep(0)
    (late,) = await waiting
    assert late.error is not None
    assert (late.error.kind, late.error.message) == ("infrastructure", "trajectory 't-1': not scored within 0.2 s")
    stuck.set()
    await eventually(lambda: len(watched.closed) == 1)
    # The call that was under way was the last one: no fork was made after it.
    assert len(watched.opened) == 1


async def test_a_judge_that_is_lost_ends_the_replay_beside_it(watched):
    begun, stuck = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        stuck.wait(60)

    class LostJudge:
        async def told(self, item: TrajectoryItem) -> Any:
            await asyncio.to_thread(begun.wait, 60)
            raise ScorerUnavailable("judge: away")

    watched.before_call = wait
    signals = {"contribution": {"kind": "monte_carlo"}, "solved": {"kind": "judge"}}
    settings = {"signals": signals, "judge": judge_config().model_dump(mode="json")}
    scorer = Recipe(RewardConfig.model_validate(settings), LostJudge())
    with pytest.raises(ScorerUnavailable, match="judge: away"):
        await scorer.score(TrajectoryItem.model_validate(in_world("watched-ledger")))
    stuck.set()
    await eventually(lambda: len(watched.closed) == 1)
    # The call that was under way was the last one: nothing was played on from it.
    assert len(watched.opened) == 1


async def test_four_trajectories_are_replayed_at_once_and_no_more(watched):
    together, at_work, most = threading.Barrier(4), [], []

    def meet() -> None:
        at_work.append(1)
        most.append(len(at_work))
        together.wait(60)
        at_work.pop()

    watched.before_call = meet
    steps = [{"index": 0, "call": {"name": "nothing", "arguments": {}}, "status": "unknown_tool"}]
    wrong = {"steps": steps, "stop": "step_budget"}
    # Each is done once to see whether it reproduces, and once beside its fork, which has nothing left to do.
    results = await asked(*(in_world("watched-ledger", f"t-{n}") | wrong for n in range(8)))
    assert [result.status for result in results] == ["ok"] * 8
    assert max(most) == 4
    assert len(watched.closed) == len(watched.opened) == 8 * 3


@pytest.mark.parametrize("method", METHODS)
def test_every_session_is_closed(method, watched):
    scored(method, in_world("watched-ledger"))
    assert len(watched.opened) > 2
    assert sorted(map(id, watched.opened)) == sorted(map(id, watched.closed))


@pytest.mark.parametrize("toolset", [None, "ledger"])
def test_the_task_is_part_of_the_content_and_the_trajectorys_name_is_not(toolset):
    def digest(name: str, task_id: str) -> str:
        return content_digest(TrajectoryItem.model_validate(in_world(toolset, name, task_id)))

    assert digest("t-1", "a") == digest("t-2", "a")
    assert digest("t-1", "a") != digest("t-1", "b")


async def test_equal_trajectories_of_two_tasks_are_told_apart_by_the_store():
    items = [TrajectoryItem.model_validate(in_world("ledger", "t-1", name)) for name in ("one", "two")]
    found = await KeptRewards(ComputeAlways()).find(recipe(LEAVE_ONE_OUT), items, 30.0)
    assert ["'one'" in str(found[0]), "'two'" in str(found[1])] == [True, True]


def test_whatever_decides_a_replay_decides_the_version_and_replays_are_no_rules():
    monte_carlo = {"kind": "monte_carlo"}
    recipes = [
        recipe(LEAVE_ONE_OUT),
        recipe(monte_carlo),
        recipe(monte_carlo | {"continuations": 4}),
        recipe(monte_carlo | {"max_steps": 4}),
        recipe(monte_carlo | {"policy": {"kind": "random"}}),
        recipe(monte_carlo | {"policy": {"kind": "noisy_oracle", "noise": 0.1}}),
    ]
    assert len({one.version for one in recipes}) == 6
    assert not any(one.by_rules for one in recipes)


def test_replays_need_no_distance_and_a_tool_to_play_with():
    config = RewardConfig.model_validate({"signals": {"contribution": LEAVE_ONE_OUT}})
    assert not config.needs_distance
    assert config.signals.replays
    with pytest.raises(ValidationError):
        RewardConfig.model_validate({"signals": {"contribution": {"kind": "monte_carlo", "continuations": 0}}})


async def eventually(holds: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)
