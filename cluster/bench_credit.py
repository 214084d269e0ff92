"""`steptool bench credit`: which estimator's advantages follow what a step was truly worth.

Owns the measurement; the trajectories and the truth are those of `cluster.credit_world`. There a call is left out, with
all that was learned from it, and the rest is done again (`reward_service.replay.leave_one_out`). Every estimator sees
the same trajectories, in the same batches.

Three numbers, since advantages have no unit in common. `correlation` is Pearson's over the calls that have credit, and
`correlation_of_all` over all calls, where no credit counts as 0: those that leave out groups or failures are judged on
other calls by the first, and on the same ones by the second. `order` looks inside one trajectory: the share of the
pairs (a call that was worth more, one that was worth less) that the advantages put in the right order, ties counting
half; an estimator that gives all steps of a trajectory one number has 0.5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from cluster.credit_world import GROUP_SIZE, REPLAYED, Worths, continuations, played_batch, scored_batch, worths
from cluster.presets import load_config
from learner.config import CreditConfig, ProgressTableConfig, StepGaeConfig
from learner.credit import CreditedTrajectory, StateAt, assign_credit
from learner.credit.config import (
    BilevelGaeConfig,
    EtoConfig,
    GigpoConfig,
    GrpoConfig,
    LeaveOneOutConfig,
    MonteCarloConfig,
    MtGrpoConfig,
    NoWhitening,
    PpoOutcomeConfig,
    ReinforcePpConfig,
    RftConfig,
    RlooConfig,
    StepReinforcePpConfig,
    StepReturnsConfig,
    StepRlooConfig,
    TokenGaeConfig,
    TreeConfig,
)
from learner.estimator import CreditAssigner
from learner.progress_table import ProgressTable
from reward_service.config import RewardConfig

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
_EQUAL = 1e-9
_PRESET = "quickstart"
"""Whose step rewards the estimators see."""
ESTIMATORS: Mapping[str, CreditConfig] = {
    config.kind: config
    for config in (
        StepGaeConfig(),
        TokenGaeConfig(),
        BilevelGaeConfig(),
        StepReturnsConfig(),
        StepRlooConfig(),
        StepReinforcePpConfig(),
        GigpoConfig(),
        MtGrpoConfig(),
        TreeConfig(),
        MonteCarloConfig(),
        # Of the signal that is the truth, as it is: anything but a correlation of 1 would be a defect of this bench.
        LeaveOneOutConfig(whiten=NoWhitening()),
        PpoOutcomeConfig(),
        GrpoConfig(),
        RlooConfig(),
        ReinforcePpConfig(),
        RftConfig(),
        EtoConfig(),
    )
}
"""Those that need no hidden states of a model. Critics over tokens read the progress table, at the one token of each
step: what they do between steps is measured, and what they do within one is not."""

Floats = NDArray[np.float64]
Assign = Callable[[Sequence[ScoredTrajectory]], Sequence[CreditedTrajectory]]
"""Credit for one batch after another."""


class Statistic(Protocol):
    """A number of many groups, from sums over each, so that groups can be drawn again cheaply."""

    def __call__(self, sums: Floats) -> Floats:
        """[R, K] sums of R samples; gives [R]."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """The calls of one group: an advantage and the true worth of each."""

    advantages: Floats
    """[N] NaN where the call has no credit."""
    worths: Floats
    """[N] in [−1, 1]."""
    trajectories: Floats
    """[N] which trajectory of the group each belongs to."""

    def credited(self) -> Judged:
        """Those that have credit."""
        there = ~np.isnan(self.advantages)
        return Judged(self.advantages[there], self.worths[there], self.trajectories[there])

    def filled(self) -> Judged:
        """All of them, no credit counting as 0."""
        return replace(self, advantages=np.nan_to_num(self.advantages))


def bench_credit(batches: int) -> Mapping[str, Any]:
    """Measure every estimator on `batches` batches of trajectories; a table goes to standard error."""
    console = Console(stderr=True)
    rewards = load_config(_PRESET).rewards
    played = [played_batch(number) for number in track(range(batches), "playing", console=console, transient=True)]
    replayed = [scored_batch(batch, REPLAYED) for batch in track(played, "replaying", console=console, transient=True)]
    scored = [scored_batch(batch, rewards) for batch in played]
    truth = [worths(batch) for batch in replayed]
    found = {
        name: _measured(_assign(config, rewards), replayed if name == "leave_one_out" else scored, truth)
        for name, config in track(ESTIMATORS.items(), "giving credit", console=console, transient=True)
    }
    console.print(_table(found))
    calls = [worth for batch in truth for worth in itertools.chain.from_iterable(batch) if worth is not None]
    return {
        "trajectories": sum(map(len, played)),
        "calls": len(calls),
        "useful_calls": sum(worth > 0 for worth in calls),
        "solved": sum(one.reward.solved == 1.0 for batch in scored for one in batch) / sum(map(len, scored)),
        "estimators": found,
    }


def _assign(config: CreditConfig, rewards: RewardConfig) -> Assign:
    if isinstance(config, TokenGaeConfig | BilevelGaeConfig | PpoOutcomeConfig):
        return _with_table(config)
    play_on = continuations(rewards, config.gamma) if isinstance(config, MonteCarloConfig) else None
    return CreditAssigner(config, _no_value_head, play_on).assign


def _with_table(config: TokenGaeConfig | BilevelGaeConfig | PpoOutcomeConfig) -> Assign:
    """The table in the place of the value head; it learns what the estimator's critic would learn."""
    table = ProgressTable(ProgressTableConfig(), config.gamma)

    def assign(scored: Sequence[ScoredTrajectory]) -> Sequence[CreditedTrajectory]:
        earned = [paid_by_outcome(one) for one in scored] if isinstance(config, PpoOutcomeConfig) else scored
        credited = assign_credit(scored, table.values(earned), config)
        table.learn(earned)
        return credited

    return assign


def paid_by_outcome(scored: ScoredTrajectory) -> ScoredTrajectory:
    """With the outcome as the reward of the last step, and 0 for every other."""
    paid = [0.0] * len(scored.reward.steps)
    paid[-1:] = [scored.reward.solved or 0.0] if paid else []
    steps = [replace(step, value=value) for step, value in zip(scored.reward.steps, paid, strict=True)]
    return replace(scored, reward=replace(scored.reward, steps=tuple(steps)))


def _measured(assign: Assign, scored: Sequence[Sequence[ScoredTrajectory]], truth: Sequence[Worths]) -> dict[str, Any]:
    """The three numbers, over all groups."""
    groups = [group for batch, own in zip(scored, truth, strict=True) for group in judged_groups(assign(batch), own)]
    credited, filled = [one.credited() for one in groups], [one.filled() for one in groups]
    return {
        "calls": sum(len(one.worths) for one in credited),
        "correlation": with_interval(np.stack([moments(one) for one in credited]), correlation),
        "correlation_of_all": with_interval(np.stack([moments(one) for one in filled]), correlation),
        "order": with_interval(np.stack([ordered_pairs(one) for one in credited]), share_in_order),
    }


def judged_groups(credited: Sequence[CreditedTrajectory], truth: Worths) -> Iterator[Judged]:
    """The calls of each group whose worth is known."""
    for start in range(0, len(credited), GROUP_SIZE):
        rows = [
            (np.nan if advantage is None else advantage, worth, member)
            for member in range(start, min(start + GROUP_SIZE, len(credited)))
            for advantage, worth in zip(credited[member].advantages, truth[member], strict=True)
            if worth is not None
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


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("correlation", "correlation_of_all", "order")
    titles = ("calls with credit", "their correlation with the truth", "that of all, no credit as 0", "pairs in order")
    table = Table("estimator", *titles, title="Advantages beside true worth")
    for name, numbers in found.items():
        table.add_row(name, f"{numbers['calls']:,}", *(_told(numbers[column]) for column in columns))
    return table


def _told(number: Mapping[str, float]) -> str:
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"


def _no_value_head(_: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> Sequence[Sequence[float]]:
    raise RuntimeError("bench credit: an estimator asks for values of a model, and there is none")
