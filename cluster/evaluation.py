"""Held-out evaluation: how many tasks a policy solves, by level, with intervals. Pure, but for the pool that plays.

Owns `Evaluation`. The same tasks, prompts and budgets serve every policy that is compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.config import RolloutConfig
from actors.episode import EpisodeRequest
from actors.scoring import ScoredTrajectory
from actors.trajectory import Step
from cluster.config import EvaluationConfig, TaskConfig
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Outcome of one pass over the held-out tasks."""

    tasks: int
    solved: float
    """Share solved."""
    interval: tuple[float, float]
    """Wilson interval at 95 %."""
    by_level: Mapping[str, float]
    calls: float
    """Mean tool calls an episode."""
    useless_calls: float
    """Mean tool calls an episode that did not shorten the way, or failed where no distance is known."""
    calls_by_level: Mapping[str, float]
    """Watched because a policy that learns to answer early stops going deep."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Evaluation:
        return cls(**{**record, "interval": tuple(record["interval"])})


def heldout_tasks(tasks: TaskConfig, evaluation: EvaluationConfig) -> list[Task]:
    """The first tasks of the held-out split, the levels in turn; the same list in every run."""
    toolset = load_toolset(tasks.suite)
    levels = tasks.levels
    return [
        toolset.sample_task(evaluation.split, levels[i % len(levels)], i // len(levels))
        for i in range(evaluation.tasks)
    ]


def evaluation_requests(
    tasks: Sequence[Task], rollout: RolloutConfig, temperature: float, label: str, seed: int
) -> list[EpisodeRequest]:
    """One episode for each task."""
    return [
        EpisodeRequest(
            id=f"{label}/{i:04d}",
            group=f"{label}/{i:04d}",
            task=task,
            temperature=temperature,
            max_turn_tokens=rollout.sampling.max_turn_tokens,
            seed=seed + 1000 * i,
        )
        for i, task in enumerate(tasks)
    ]


def summarise(scored: Iterable[ScoredTrajectory]) -> Evaluation:
    """Rates over finished episodes; an episode that infrastructure ended without a verdict is left out."""
    judged = [one for one in scored if one.reward.solved is not None]
    if not judged:
        raise ValueError("evaluation: 0 episodes with a verdict; the reward service or the sandbox abstained on all")
    levels: dict[str, list[ScoredTrajectory]] = defaultdict(list)
    for one in judged:
        levels[one.trajectory.task.level].append(one)
    wins = sum(one.reward.solved or 0.0 for one in judged)
    return Evaluation(
        tasks=len(judged),
        solved=wins / len(judged),
        interval=wilson_interval(wins, len(judged)),
        by_level={level: _mean(one.reward.solved or 0.0 for one in levels[level]) for level in sorted(levels)},
        calls=_mean(_calls(one) for one in judged),
        useless_calls=_mean(_useless(one) for one in judged),
        calls_by_level={level: _mean(_calls(one) for one in levels[level]) for level in sorted(levels)},
    )


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson, 1927)."""
    rate = successes / trials
    centre = (rate + Z_95**2 / (2 * trials)) / (1 + Z_95**2 / trials)
    half = Z_95 * math.sqrt(rate * (1 - rate) / trials + Z_95**2 / (4 * trials**2)) / (1 + Z_95**2 / trials)
    # Where nothing or everything succeeded the bound is exact, and rounding would miss it by an epsilon.
    return (centre - half if successes > 0 else 0.0), (centre + half if successes < trials else 1.0)


def _calls(one: ScoredTrajectory) -> int:
    return sum(step.result is not None for step in one.trajectory.steps)


def _useless(one: ScoredTrajectory) -> int:
    return sum(not _helped(step) for step in one.trajectory.steps if step.result is not None)


def _helped(step: Step) -> bool:
    if step.progress is not None:
        return step.progress.after < step.progress.before
    # Where nobody knows the way, a call that ran gets the benefit of the doubt.
    return step.result is not None and step.result.status is CallStatus.OK


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
