"""`steptool rescore`: what another way of scoring would have made of a recorded run, without generating anything.

Consumes the trajectories of a run and two reward configurations: its own and another. Produces, for each iteration,
rewards, advantages and the loss under both. The loss is that of the policy which sampled the trajectories: its ratios
are one, so that it needs no model, and only the credit can make a difference.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.recipes import tool_specs
from actors.scoring import ScoredTrajectory, score
from actors.storage import read_trajectories
from actors.trajectory import Trajectory
from cluster.config import RunConfig
from cluster.errors import BadConfiguration
from cluster.reward_assembly import opened_service
from cluster.reward_file import read_rewards
from cluster.run_directory import RunDirectory
from learner.config import CreditConfig
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.config import ArcherConfig, MonteCarloConfig, value_head_of
from learner.estimator import CreditAssigner
from learner.objective.config import NoKl
from reward_service.config import RewardConfig
from reward_service.errors import UnscorableTrajectory
from reward_service.service import RewardService


@dataclass(frozen=True, slots=True)
class Difference:
    """One iteration under two ways of scoring."""

    iteration: int
    steps: int
    reward_before: float
    """Mean of the steps that do not abstain."""
    reward_after: float
    advantage_agreement: float
    """Share of the steps, credited under both, whose advantages have one sign."""
    correlation: float
    """Pearson's, of the advantages; NaN is told as 0 where one of the two is constant."""
    loss_before: float
    loss_after: float


@dataclass(frozen=True, slots=True)
class Rescored:
    """A run under two ways of scoring."""

    version_before: str
    version_after: str
    iterations: tuple[Difference, ...]
    largest_recorded_gap: float
    """Largest |recorded − recomputed| step reward under the run's own configuration: 0 unless the rules changed."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rescore(run: Path, reward_file: Path) -> Iterator[tuple[int, int, Rescored]]:
    """Go through a run, an iteration at a time: yields how many are done, of how many, and the result so far.

    Raises:
        BadConfiguration: no such run, a reward file that does not fit, or credit that needs the policy's value head.
    """
    directory = RunDirectory(run)
    config = _run_config(directory)
    files = sorted(directory.trajectories.glob("*.parquet"))
    if not files:
        raise BadConfiguration(f"run {run}: no trajectories in {directory.trajectories}; nothing to score again")
    rewards, others = (one.votes_kept_in(directory.votes) for one in (config.rewards, read_rewards(reward_file)))
    with (
        asyncio.Runner() as loop,
        _opened(loop, rewards) as before,
        _opened(loop, others) as after,
    ):
        yield from _gone_through(files, _Scoring(loop, before, config.credit), _Scoring(loop, after, config.credit))


def _gone_through(files: Sequence[Path], before: _Scoring, after: _Scoring) -> Iterator[tuple[int, int, Rescored]]:
    found: list[Difference] = []
    gap = 0.0
    for done, path in enumerate(files, start=1):
        recorded = [one.scored for one in read_trajectories(path)]
        old = before.credit([one.trajectory for one in recorded])
        new = after.credit([one.trajectory for one in recorded])
        gap = max(gap, _recorded_gap(recorded, old))
        found.append(_difference(int(path.stem), old, new))
        yield done, len(files), Rescored(before.version, after.version, tuple(found), gap)


class _Scoring:
    """One reward configuration with an estimator of its own; batches come in the order of the run."""

    def __init__(self, loop: asyncio.Runner, service: RewardService, credit: CreditConfig) -> None:
        self._loop = loop
        self._service = service
        self.version = service.reward_version
        self._assigner = CreditAssigner(credit, _no_value_head)

    def credit(self, trajectories: Sequence[Trajectory]) -> list[CreditedTrajectory]:
        try:
            scored = self._loop.run(score(self._service, trajectories, tool_specs))
        except UnscorableTrajectory as error:
            raise BadConfiguration(f"rewards {self.version[:12]}: {error}") from error
        return self._assigner.assign(scored)


@contextmanager
def _opened(loop: asyncio.Runner, rewards: RewardConfig) -> Iterator[RewardService]:
    """The service of `rewards` in this process, judge and step model included, in the event loop of `loop`."""
    opening = opened_service(rewards)
    service = loop.run(opening.__aenter__()).service
    try:
        yield service
    finally:
        loop.run(opening.__aexit__(None, None, None))


def policy_loss(credited: Sequence[CreditedTrajectory]) -> float:
    """−Σ_t Â_t·n_t / Σ_t n_t over credited steps of n_t action tokens: clipped PPO where every ratio is one."""
    weighted = [
        (advantage, len(step.action_ids))
        for one in credited
        for step, advantage in zip(one.scored.trajectory.steps, one.advantages, strict=True)
        if advantage is not None
    ]
    tokens = sum(count for _, count in weighted)
    return -sum(advantage * count for advantage, count in weighted) / tokens if tokens else 0.0


def _difference(iteration: int, old: Sequence[CreditedTrajectory], new: Sequence[CreditedTrajectory]) -> Difference:
    pairs = [
        (a, b)
        for before, after in zip(old, new, strict=True)
        for a, b in zip(before.advantages, after.advantages, strict=True)
        if a is not None and b is not None
    ]
    return Difference(
        iteration=iteration,
        steps=sum(len(one.advantages) for one in old),
        reward_before=_mean_reward(old),
        reward_after=_mean_reward(new),
        advantage_agreement=sum(_sign(a) == _sign(b) for a, b in pairs) / len(pairs) if pairs else 0.0,
        correlation=_correlation(pairs),
        loss_before=policy_loss(old),
        loss_after=policy_loss(new),
    )


def _mean_reward(credited: Sequence[CreditedTrajectory]) -> float:
    known = [step.value for one in credited for step in one.scored.reward.steps if step.value is not None]
    return statistics.fmean(known) if known else 0.0


def _recorded_gap(recorded: Sequence[ScoredTrajectory], again: Sequence[CreditedTrajectory]) -> float:
    gaps = [
        abs(a.value - b.value)
        for one, other in zip(recorded, again, strict=True)
        for a, b in zip(one.reward.steps, other.scored.reward.steps, strict=True)
        if a.value is not None and b.value is not None
    ]
    return max(gaps, default=0.0)


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    if len(set(left)) < 2 or len(set(right)) < 2:
        return 0.0
    return statistics.correlation(left, right)


def _sign(number: float) -> float:
    return math.copysign(1.0, number) if number else 0.0


def _no_value_head(trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS, /) -> Sequence[Sequence[float]]:
    raise RuntimeError("rescore: asked for values of a policy that is not there")


def _run_config(directory: RunDirectory) -> RunConfig:
    config = directory.read_config()
    kl = config.learner.loss.kl
    if not isinstance(kl, NoKl) and kl.place == "reward":
        raise BadConfiguration(
            f"run {directory.path}: its step rewards were charged with the KL to a reference policy, which is not "
            "recorded; only runs with learner.loss.kl.place loss, or without KL, can be scored again"
        )
    if value_head_of(config.credit) is not None or isinstance(config.credit, ArcherConfig):
        raise BadConfiguration(
            f"run {directory.path}: its advantages come from a critic that reads the policy, which is not recorded; "
            "only runs with a progress table or without a critic can be scored again"
        )
    if isinstance(config.credit, MonteCarloConfig):
        raise BadConfiguration(
            f"run {directory.path}: its advantages come from continuations, of which only the returns under the run's "
            "own rewards are recorded; runs with another credit.kind can be scored again"
        )
    return config
