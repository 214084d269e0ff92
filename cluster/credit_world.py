"""Trajectories of which the truth is known, and what their states are worth, without a model.

Owns what `steptool bench credit` measures on. An oracle that errs plays ledger world, each text as one token, so that a
step has one token. Leaving a call out tells what it was worth; the oracle, playing on, what a state is worth. Nothing
here is used by training.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence

from actors.prefix import prefix_before
from actors.recipes import tool_specs
from actors.scoring import ScoredTrajectory, score
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from learner.credit.monte_carlo import ReadContinuations, return_from
from reward_service.config import LeaveOneOutContribution, RewardConfig, SignalsConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tool_sandbox.demonstrations import Past, Policy, play_on
from tool_sandbox.registry import load_toolset
from tool_sandbox.rendering import canonical_json
from tool_sandbox.session import Toolset
from tool_sandbox.tasks import Split, StopReason, Task
from tool_sandbox.tools import CallOutcome, ToolCall

GROUP_SIZE = 8
GROUPS_A_BATCH = 8
LEVELS = ("L0", "L1", "L2")
NOISE = 0.4
MAX_STEPS = 8
REPLAYED = RewardConfig(signals=SignalsConfig(contribution=LeaveOneOutContribution()))
"""Step rewards whose signal `contribution` is the truth."""
_SAMPLED = (VersionSpan(0, 0, 1),)
_TOOLSET = "ledger"

Worths = Sequence[Sequence[float | None]]
"""What each step of each trajectory of a batch was truly worth; None for an answer."""


def played_batch(number: int) -> list[Trajectory]:
    """Groups of trajectories of one task each, by an oracle that errs otherwise in each of them."""
    toolset = load_toolset(_TOOLSET)
    return [one for group in range(GROUPS_A_BATCH) for one in _group(toolset, number * GROUPS_A_BATCH + group)]


def scored_batch(batch: Sequence[Trajectory], rewards: RewardConfig) -> list[ScoredTrajectory]:
    """With step rewards."""
    return asyncio.run(score(RewardService(Recipe(rewards)), batch, tool_specs))


def worths(replayed: Sequence[ScoredTrajectory]) -> Worths:
    """Of a batch that was scored by `REPLAYED`."""
    return [[step.signals["contribution"] for step in one.reward.steps] for one in replayed]


def continuations(rewards: RewardConfig, gamma: float) -> ReadContinuations:
    """What the oracle that errs earns from the state before each step; the same state of a group is played from once.

    Its dice are new ones. The only thing that a continuation does not know of its prefix is whether the last call of it
    was an error, after which the trajectory itself made none.
    """

    def read(trajectories: Sequence[Trajectory], count: int) -> list[list[list[float]]]:
        keys = [[_state(one, t) for t in range(len(one.steps))] for one in trajectories]
        first = {key: (one, t) for one, own in zip(trajectories, keys, strict=True) for t, key in enumerate(own)}
        went_on = [(key, t, _continued(one, t, k)) for key, (one, t) in first.items() for k in range(count)]
        earned: dict[tuple[str, tuple[int, ...]], list[float]] = {key: [] for key in first}
        for (key, t, _), scored in zip(went_on, scored_batch([one for *_, one in went_on], rewards), strict=True):
            found = return_from(scored, t, gamma)
            earned[key] += [] if found is None else [found]
        return [[earned[key] for key in own] for own in keys]

    return read


def _group(toolset: Toolset, number: int) -> Iterator[Trajectory]:
    task = toolset.sample_task(Split.TRAIN, LEVELS[number % len(LEVELS)], number)
    for member in range(GROUP_SIZE):
        yield _played(toolset, task, _oracle(toolset, number * GROUP_SIZE + member), f"{number}/{member}", str(number))


def _oracle(toolset: Toolset, seed: int) -> Policy:
    policy = toolset.demonstrator(NOISE, seed)
    assert policy is not None, "ledger world has a demonstrator"
    return policy


def _continued(one: Trajectory, step: int, number: int) -> Trajectory:
    toolset, name = load_toolset(_TOOLSET), f"{one.id}@{step}/{number}"
    return _played(toolset, one.task, _oracle(toolset, _token(name)), name, one.group, one.steps[:step])


def _played(
    toolset: Toolset, task: Task, policy: Policy, id: str, group: str, prefix: Sequence[Step] = ()
) -> Trajectory:
    """As an episode would record it, with one token for each text: what reads alike has equal tokens."""
    session, past = toolset.open(task), Past()
    try:
        for step in prefix:
            assert isinstance(step.action, ToolCall), "an answer ends a trajectory here"
            past = past.called(step.action, session.call(step.action))
        past, answer = play_on(session, task, policy, MAX_STEPS - len(prefix), past)
    finally:
        session.close()
    stop = StopReason.STEP_BUDGET if answer is None else StopReason.ANSWERED
    return Trajectory(id, group, task, tuple(_steps(task, past, answer)), stop)


def _steps(task: Task, past: Past, answer: str | None) -> Iterator[Step]:
    fed = _token(task.prompt)
    for exchange in past.history:
        yield _called(fed, exchange.call, exchange.outcome)
        fed = _token(exchange.outcome.result.content)
    if answer is not None:
        yield Step((fed,), (_token(answer),), (0.0,), _SAMPLED, Answer(answer), None, None)


def _called(fed: int, call: ToolCall, outcome: CallOutcome) -> Step:
    text = f"{call.name} {canonical_json(call.arguments)}"
    return Step((fed,), (_token(text),), (0.0,), _SAMPLED, call, outcome.result, outcome.progress)


def _state(one: Trajectory, step: int) -> tuple[str, tuple[int, ...]]:
    return one.group, prefix_before(one, step).token_ids


def _token(text: str) -> int:
    return zlib.crc32(text.encode())
