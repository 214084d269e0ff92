"""A trajectory as something that can be done again: its task opened anew, and what the model did in order.

Consumes a `TrajectoryItem`; produces `Recorded`, or says why the trajectory cannot be replayed here. Only installed
toolsets are opened: a name from the wire must not lead to a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from reward_service.errors import UnscorableTrajectory
from reward_service.wire import StepItem, TrajectoryItem
from tool_sandbox.errors import InvalidToolset, SandboxError
from tool_sandbox.registry import load_toolset, toolset_names
from tool_sandbox.session import FindsTasks
from tool_sandbox.tasks import StopReason, Task
from tool_sandbox.tools import CallStatus, ToolCall

TASKS_KEPT = 256
"""The trajectories of one group come together, and a task costs milliseconds to make again."""


@dataclass(frozen=True, slots=True)
class Act:
    """A call that ended, or an answer that the user replied to."""

    step: int
    action: ToolCall | str
    status: CallStatus | None
    """None for an answer."""
    observation: str | None
    """None where it was not recorded."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was done in one episode, without the turns that ran nothing and the call that was lost."""

    task: Task
    acts: tuple[Act, ...]
    answer: str | None
    """The final one; None where the episode ended without."""
    cut_short: bool
    """Whether infrastructure ended the episode, so that nobody knows whether the model would have solved the task."""


def recorded(item: TrajectoryItem) -> Recorded:
    """What can be replayed of `item`.

    Raises:
        UnscorableTrajectory: its task cannot be opened again here, or opens as another one.
    """
    task = _task(item)
    truth, own = item.task.ground_truth, task.ground_truth
    told = (truth.answer, truth.state_hash)
    if told not in ((None, None), (own.answer, own.state_hash)):
        raise UnscorableTrajectory(
            item.id,
            f"task {task.id!r} of toolset {task.toolset!r} has another ground truth here than the trajectory says; "
            "replay it with the version of the toolset that made it, or send the right task.id",
        )
    cut_short = item.stop is StopReason.INFRASTRUCTURE
    return Recorded(task, tuple(_acts(item)), item.episode().answer, cut_short)


def _task(item: TrajectoryItem) -> Task:
    name, installed = item.task.toolset, toolset_names()
    if name not in installed:
        found = "task.toolset is null" if name is None else f"toolset {name!r} is not installed here"
        raise UnscorableTrajectory(
            item.id,
            f"{found}, so its calls cannot be replayed; installed are {', '.join(installed)}: name the one that made "
            "the task, or measure contribution without replays",
        )
    try:
        return _found(name, item.task.id)
    except SandboxError as error:
        raise UnscorableTrajectory(item.id, f"its task cannot be opened again: {error}") from error


@lru_cache(TASKS_KEPT)
def _found(toolset: str, task_id: str) -> Task:
    world = load_toolset(toolset)
    if not isinstance(world, FindsTasks):
        raise InvalidToolset(f"toolset {toolset!r} has no `find_task`; see tool_sandbox.session.FindsTasks")
    return world.find_task(task_id)


def _acts(item: TrajectoryItem) -> Iterator[Act]:
    for step in item.steps:
        final = step.index == len(item.steps) - 1 and item.stop is StopReason.ANSWERED
        if was_made(step):
            assert step.call is not None
            call = ToolCall(f"replay-{step.index}", step.call.name, step.call.arguments)
            yield Act(step.index, call, step.status, step.observation)
        elif step.answer is not None and not final:
            yield Act(step.index, step.answer, None, None)


def was_made(step: StepItem) -> bool:
    """Whether the step is a call that ended, whatever came of it."""
    return step.call is not None and step.status not in (None, CallStatus.INFRA_ERROR)
