"""`steptool bench credit`: which estimator's advantages follow what a step was truly worth.

Owns the measurement. In ledger world the truth is known: a call is left out, with all that was learned from it, and the
rest is done again (`reward_service.replay.leave_one_out`). The trajectories come from an oracle that errs, so that no
model is needed; every estimator sees the same ones, in the same batches. Nothing here is used by training.

Two numbers, since advantages have no unit in common. `correlation` is Pearson's over all calls. `order` looks inside
one trajectory: the share of the pairs (a call that was worth more, one that was worth less) that the advantages put in
the right order, ties counting half; an estimator that gives all steps of a trajectory one number has 0.5.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from actors.scoring import ScoredTrajectory, score
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from cluster.presets import load_config
from learner.config import CreditConfig, StepGaeConfig
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.config import (
    EtoConfig,
    GigpoConfig,
    GrpoConfig,
    MtGrpoConfig,
    ReinforcePpConfig,
    RftConfig,
    RlooConfig,
    StepReinforcePpConfig,
    StepReturnsConfig,
    StepRlooConfig,
    TreeConfig,
)
from learner.estimator import CreditAssigner
from reward_service.config import LeaveOneOutContribution, RewardConfig, SignalsConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tool_sandbox.demonstrations import Demonstration, demonstrate
from tool_sandbox.registry import load_toolset
from tool_sandbox.rendering import canonical_json
from tool_sandbox.session import Toolset
from tool_sandbox.tasks import Split, StopReason

GROUP_SIZE = 8
GROUPS_A_BATCH = 8
LEVELS = ("L0", "L1", "L2")
NOISE = 0.4
MAX_STEPS = 8
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
_SAMPLED = (VersionSpan(0, 0, 1),)
_EQUAL = 1e-9
_PRESET = "quickstart"
"""Whose step rewards the estimators see."""
ESTIMATORS: Mapping[str, CreditConfig] = {
    config.kind: config
    for config in (
        StepGaeConfig(),
        StepReturnsConfig(),
        StepRlooConfig(),
        StepReinforcePpConfig(),
        GigpoConfig(),
        MtGrpoConfig(),
        TreeConfig(),
        GrpoConfig(),
        RlooConfig(),
        ReinforcePpConfig(),
        RftConfig(),
        EtoConfig(),
    )
}
"""Those that need neither a model nor somebody who plays continuations."""

Floats = NDArray[np.float64]
Worths = Sequence[Sequence[float | None]]
"""What each step of each trajectory of a batch was truly worth; None for an answer."""


class Statistic(Protocol):
    """A number of many groups, from sums over each, so that groups can be drawn again cheaply."""

    def __call__(self, sums: Floats) -> Floats:
        """[R, K] sums of R samples; gives [R]."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """The calls of one group: an advantage and the true worth of each."""

    advantages: Floats
    """[N]"""
    worths: Floats
    """[N] in [−1, 1]."""
    trajectories: Floats
    """[N] which trajectory of the group each belongs to."""


def bench_credit(batches: int) -> Mapping[str, Any]:
    """Measure every estimator on `batches` batches of trajectories; a table goes to standard error."""
    console = Console(stderr=True)
    steps = list(range(batches))
    played = [_batch(number) for number in track(steps, "playing", console=console, transient=True)]
    worths = [asyncio.run(_worths(batch)) for batch in track(played, "replaying", console=console, transient=True)]
    scored = [asyncio.run(_scored(batch, load_config(_PRESET).rewards)) for batch in played]
    found = {name: _measured(config, scored, worths) for name, config in ESTIMATORS.items()}
    console.print(_table(found))
    calls = [worth for batch in worths for worth in itertools.chain.from_iterable(batch) if worth is not None]
    return {
        "trajectories": sum(map(len, played)),
        "calls": len(calls),
        "useful_calls": sum(worth > 0 for worth in calls),
        "solved": sum(one.reward.solved == 1.0 for batch in scored for one in batch) / sum(map(len, scored)),
        "estimators": found,
    }


def _batch(number: int) -> list[Trajectory]:
    """Groups of trajectories of one task each, by an oracle that errs otherwise in each of them."""
    toolset = load_toolset("ledger")
    return [one for group in range(GROUPS_A_BATCH) for one in _group(toolset, number * GROUPS_A_BATCH + group)]


def _group(toolset: Toolset, number: int) -> Iterator[Trajectory]:
    task = toolset.sample_task(Split.TRAIN, LEVELS[number % len(LEVELS)], number)
    for member in range(GROUP_SIZE):
        policy = toolset.demonstrator(NOISE, number * GROUP_SIZE + member)
        assert policy is not None, "ledger world has a demonstrator"
        yield _trajectory(demonstrate(toolset, task, policy, MAX_STEPS), f"{number}/{member}", str(number))


def _trajectory(played: Demonstration, id: str, group: str) -> Trajectory:
    """As an episode would record it, with one token for each text: what reads alike has equal tokens."""
    fed, steps = _token(played.task.prompt), list[Step]()
    for call, outcome in zip(played.actions, played.outcomes, strict=True):
        text = f"{call.name} {canonical_json(call.arguments)}"
        steps.append(Step((fed,), (_token(text),), (0.0,), _SAMPLED, call, outcome.result, outcome.progress))
        fed = _token(outcome.result.content)
    if played.answer is not None:
        steps.append(Step((fed,), (_token(played.answer),), (0.0,), _SAMPLED, Answer(played.answer), None, None))
    stop = StopReason.STEP_BUDGET if played.answer is None else StopReason.ANSWERED
    return Trajectory(id, group, played.task, tuple(steps), stop)


def _token(text: str) -> int:
    return zlib.crc32(text.encode())


async def _scored(batch: Sequence[Trajectory], rewards: RewardConfig) -> list[ScoredTrajectory]:
    return await score(RewardService(Recipe(rewards)), batch)


async def _worths(batch: Sequence[Trajectory]) -> Worths:
    """By leaving each call out."""
    recipe = RewardConfig(signals=SignalsConfig(contribution=LeaveOneOutContribution()))
    scored = await _scored(batch, recipe)
    return [[step.signals["contribution"] for step in one.reward.steps] for one in scored]


def _measured(
    config: CreditConfig,
    scored: Sequence[Sequence[ScoredTrajectory]],
    truth: Sequence[Sequence[Sequence[float | None]]],
) -> dict[str, Any]:
    """Both numbers, over all groups."""
    estimator = CreditAssigner(config, _no_value_head)
    groups = [
        group for batch, worths in zip(scored, truth, strict=True) for group in _judged(estimator.assign(batch), worths)
    ]
    return {
        "correlation": with_interval(np.stack([moments(one) for one in groups]), correlation),
        "order": with_interval(np.stack([ordered_pairs(one) for one in groups]), share_in_order),
    }


def _judged(credited: Sequence[CreditedTrajectory], worths: Worths) -> Iterator[Judged]:
    """The calls of each group that have both, credit and worth."""
    for start in range(0, len(credited), GROUP_SIZE):
        rows = [
            (advantage, worth, member)
            for member in range(start, start + GROUP_SIZE)
            for advantage, worth in zip(credited[member].advantages, worths[member], strict=True)
            if advantage is not None and worth is not None
        ]
        columns = np.asarray(rows, dtype=np.float64).reshape(-1, 3)
        yield Judged(columns[:, 0], columns[:, 1], columns[:, 2])


def moments(group: Judged) -> Floats:
    """n, Σa, Σw, Σa², Σw², Σaw."""
    a, w = group.advantages, group.worths
    return np.array([len(a), a.sum(), w.sum(), (a * a).sum(), (w * w).sum(), (a * w).sum()])


def correlation(sums: Floats) -> Floats:
    """Pearson's r of the moments n, Σa, Σw, Σa², Σw², Σaw."""
    n, a, w, aa, ww, aw = sums.T
    spread = np.sqrt(np.maximum(n * aa - a * a, 0.0) * np.maximum(n * ww - w * w, 0.0))
    return np.divide(n * aw - a * w, spread, out=np.zeros_like(spread), where=spread > 0)


def ordered_pairs(group: Judged) -> Floats:
    """Pairs of calls of one trajectory that differ in worth: those in the right order, and all of them."""
    same = group.trajectories[:, None] == group.trajectories[None, :]
    better = same & (group.worths[:, None] > group.worths[None, :] + _EQUAL)
    gap = group.advantages[:, None] - group.advantages[None, :]
    right = np.where(gap > _EQUAL, 1.0, np.where(gap < -_EQUAL, 0.0, 0.5))
    return np.array([right[better].sum(), better.sum()])


def share_in_order(sums: Floats) -> Floats:
    """Of the pairs, those in the right order."""
    right, pairs = sums.T
    return np.divide(right, pairs, out=np.full_like(right, 0.5), where=pairs > 0)


def with_interval(sums: Floats, statistic: Statistic) -> dict[str, float]:
    """The statistic over all groups, and its 95 % interval by drawing groups anew. `sums` [groups, K]."""
    draws = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.percentile(statistic(sums[draws].sum(axis=1)), INTERVAL)
    (value,) = statistic(sums.sum(axis=0, keepdims=True))
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table("estimator", "correlation with the truth", "pairs in order", title="Advantages beside true worth")
    for name, numbers in found.items():
        table.add_row(name, *(_told(numbers[statistic]) for statistic in ("correlation", "order")))
    return table


def _told(number: Mapping[str, float]) -> str:
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"


def _no_value_head(_: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> Sequence[Sequence[float]]:
    raise RuntimeError("bench credit: an estimator asks for values of a model, and there is none")
