"""Builders of small trajectories with chosen rewards; shared by the learner's tests."""

from __future__ import annotations

from collections.abc import Sequence

from actors.scoring import ScoredTrajectory
from actors.trajectory import Action, Answer, Step, Trajectory, VersionSpan
from learner.credit import CreditedTrajectory
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task
from tool_sandbox.tools import Progress, ToolCall

TASK = Task("ledger-1", "ledger", "How much?", (), GroundTruth(answer="7", minimum_calls=2), "L1", Split.TRAIN, {})

ANSWER = Answer("7")
CALL = ToolCall("c-0", "price", {"item": "ink"})


def step(
    prompt: Sequence[int],
    action: Sequence[int],
    logprob: float = -1.0,
    progress: tuple[int, int] | None = None,
    does: Action = ANSWER,
) -> Step:
    return Step(
        prompt_ids=tuple(prompt),
        action_ids=tuple(action),
        logprobs=(logprob,) * len(action),
        versions=(VersionSpan(0, 0, len(action)),),
        action=does,
        result=None,
        progress=None if progress is None else Progress(*progress),
    )


def scored(
    rewards: Sequence[float | None],
    *,
    id: str = "t-0",
    group: str = "g-0",
    solved: float | None = 1.0,
    steps: Sequence[Step] | None = None,
    stop: StopReason = StopReason.ANSWERED,
    contributions: Sequence[float | None] = (),
) -> ScoredTrajectory:
    # Every trajectory says something else, and sees at each step what the others see there.
    steps = steps or [step((1, 2, 3) if not t else (7, t), (4, sum(map(ord, id)))) for t in range(len(rewards))]
    trajectory = Trajectory(id, group, TASK, tuple(steps), stop)
    signals = [{"contribution": one} for one in contributions] or [{} for _ in rewards]
    given = tuple(StepReward(value, said) for value, said in zip(rewards, signals, strict=True))
    reward = TrajectoryReward(id, given, solved, "v1")
    return ScoredTrajectory(trajectory, reward)


def credited(
    advantages: Sequence[float | None], steps: Sequence[Step], *, id: str = "t-0", group: str = "g-0"
) -> CreditedTrajectory:
    one = scored([0.0] * len(steps), id=id, group=group, steps=steps)
    return CreditedTrajectory(one, tuple(advantages), tuple(None if a is None else 0.5 for a in advantages))
