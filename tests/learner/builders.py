"""Builders of small trajectories with chosen rewards; shared by the learner's tests."""

from __future__ import annotations

from collections.abc import Sequence

from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from learner.credit import CreditedTrajectory
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task
from tool_sandbox.tools import Progress

TASK = Task("ledger-1", "ledger", "How much?", (), GroundTruth(answer="7", minimum_calls=2), "L1", Split.TRAIN, {})


def step(
    prompt: Sequence[int], action: Sequence[int], logprob: float = -1.0, progress: tuple[int, int] | None = None
) -> Step:
    return Step(
        prompt_ids=tuple(prompt),
        action_ids=tuple(action),
        logprobs=(logprob,) * len(action),
        versions=(VersionSpan(0, 0, len(action)),),
        action=Answer("7"),
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
) -> ScoredTrajectory:
    steps = steps or [step((1, 2, 3), (4, 5)) for _ in rewards]
    trajectory = Trajectory(id, group, TASK, tuple(steps), stop)
    reward = TrajectoryReward(id, tuple(StepReward(value, {}) for value in rewards), solved, "v1")
    return ScoredTrajectory(trajectory, reward)


def credited(
    advantages: Sequence[float | None], steps: Sequence[Step], *, id: str = "t-0", group: str = "g-0"
) -> CreditedTrajectory:
    one = scored([0.0] * len(steps), id=id, group=group, steps=steps)
    return CreditedTrajectory(one, tuple(advantages), tuple(None if a is None else 0.5 for a in advantages))
