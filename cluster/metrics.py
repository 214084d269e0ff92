"""What one iteration measured, and the places where people look at it. Owns the metric names.

Consumes an `IterationReport`; writes metrics.jsonl, TensorBoard and Ray's metrics endpoint. Metrics are values that the
loop returns; nothing else in the house records any.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.util.metrics import Counter, Gauge
from torch.utils.tensorboard import SummaryWriter

from actors.scoring import ScoredTrajectory
from cluster.config import RunConfig
from cluster.layout import layout_of
from cluster.run_directory import RunDirectory

METRIC_NAMES = (
    "steptool_iteration",
    "steptool_solved_rate",
    "steptool_step_reward",
    "steptool_tokens_per_second",
    "steptool_phase_seconds",
    "steptool_staleness",
    "steptool_policy_version",
    "steptool_trajectories_total",
    "steptool_abstained_steps_total",
)
"""As Ray exports them, without its prefix `ray_`."""


@dataclass(frozen=True, slots=True)
class IterationReport:
    """One turn of the loop."""

    iteration: int
    version: int
    """Policy version after the update."""
    solved_rate: float
    """Of the sampled training episodes."""
    step_reward: float
    """Mean over the steps that did not abstain."""
    signals: Mapping[str, float]
    """Mean raw signal by name, over the steps that have it."""
    steps: float
    """Mean steps an episode."""
    trajectories: int
    abstained_steps: int
    action_tokens: int
    """Of all trajectories, what they share counted for each."""
    sampled_tokens: int
    """What engines sampled for this iteration: shared beginnings once, and continuations too. Compare budgets by it."""
    continuation_tokens: int
    """Action tokens of the continuations that credit asked for; 0 where it asks for none."""
    continuation_episodes: int
    continuations_lost: int
    """Without a return, although they were played again."""
    staleness: float
    """Mean over action tokens of (learner version − version that sampled the token) at the update."""
    learner: Mapping[str, float]
    """What the update reported: loss, ratio, clip share, KL …"""
    level_solved: Mapping[str, float]
    """Solved rate of the sampled training episodes by level; a level without a verdict is left out."""
    level_share: Mapping[str, float]
    """Share of the training episodes by level."""
    seconds: Mapping[str, float]
    """Wall seconds by phase."""
    canary_gap: float
    """Largest mean |Δ log p| between learner and engines after the publish, in nats."""

    @property
    def loss(self) -> float:
        return self.learner["loss"]

    def as_record(self) -> dict[str, Any]:
        return {**asdict(self), "loss": self.loss, "tokens_per_second": self.tokens_per_second()}

    def tokens_per_second(self) -> dict[str, float]:
        """Action tokens a second of the phases that handle them."""
        handled = {"rollout": self.sampled_tokens - self.continuation_tokens, "update": self.action_tokens}
        return {phase: tokens / self.seconds[phase] for phase, tokens in handled.items()}


def count_staleness(scored: Sequence[ScoredTrajectory], version: int) -> float:
    """Mean age of the action tokens, in policy versions."""
    spans = [span for one in scored for step in one.trajectory.steps for span in step.versions]
    tokens = sum(span.end - span.start for span in spans)
    return sum((version - span.version) * (span.end - span.start) for span in spans) / tokens if tokens else 0.0


def mean_signals(scored: Sequence[ScoredTrajectory]) -> dict[str, float]:
    """Mean of each signal over the steps on which it did not abstain."""
    sums: dict[str, list[float]] = {}
    for one in scored:
        for reward in one.reward.steps:
            for name, value in reward.signals.items():
                if value is not None:
                    sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(sums.items())}


def count_solved(scored: Sequence[ScoredTrajectory]) -> dict[str, tuple[float, int]]:
    """Level → (solved, judged) episodes; an episode that infrastructure ended without a verdict is not judged."""
    verdicts: dict[str, list[float]] = {}
    for one in scored:
        found = verdicts.setdefault(one.trajectory.task.level, [])
        if one.reward.solved is not None:
            found.append(one.reward.solved)
    return {level: (sum(found), len(found)) for level, found in sorted(verdicts.items())}


def level_shares(scored: Sequence[ScoredTrajectory]) -> dict[str, float]:
    """Share of the episodes by level."""
    counts = Counts(one.trajectory.task.level for one in scored)
    return {level: counts[level] / len(scored) for level in sorted(counts)}


class MetricSink:
    """Writes each report to all places, and to metrics.jsonl the layout of its update. Close it at the end."""

    def __init__(self, directory: RunDirectory, config: RunConfig) -> None:
        self._directory = directory
        self._layout = layout_of(config)
        self._board = SummaryWriter(str(directory.tensorboard))
        tags = {"run": config.name}
        self._gauges = {name: _gauge(name, tags) for name in METRIC_NAMES if not name.endswith("_total")}
        self._trajectories = Counter("steptool_trajectories", "Finished trajectories", ("run",))
        self._abstained = Counter("steptool_abstained_steps", "Steps without a verdict", ("run",))
        for counter in (self._trajectories, self._abstained):
            counter.set_default_tags(tags)

    def write(self, report: IterationReport) -> None:
        self._directory.append_metrics({**report.as_record(), "layout": self._layout})
        for name, value in _scalars(report):
            self._board.add_scalar(name, value, report.iteration)
        self._board.flush()
        self._export(report)

    def close(self) -> None:
        self._board.close()

    def _export(self, report: IterationReport) -> None:
        self._gauges["steptool_iteration"].set(report.iteration)
        self._gauges["steptool_solved_rate"].set(report.solved_rate)
        self._gauges["steptool_staleness"].set(report.staleness)
        self._gauges["steptool_policy_version"].set(report.version)
        for signal, value in {**report.signals, "total": report.step_reward}.items():
            self._gauges["steptool_step_reward"].set(value, {"signal": signal})
        for phase, seconds in report.seconds.items():
            self._gauges["steptool_phase_seconds"].set(seconds, {"phase": phase})
        for phase, rate in report.tokens_per_second().items():
            self._gauges["steptool_tokens_per_second"].set(rate, {"phase": phase})
        self._trajectories.inc(report.trajectories)
        if report.abstained_steps:
            self._abstained.inc(report.abstained_steps)


_TAGS = {
    "steptool_step_reward": ("signal",),
    "steptool_phase_seconds": ("phase",),
    "steptool_tokens_per_second": ("phase",),
}


def _gauge(name: str, tags: Mapping[str, str]) -> Gauge:
    gauge = Gauge(name, name.removeprefix("steptool_").replace("_", " "), ("run", *_TAGS.get(name, ())))
    gauge.set_default_tags(dict(tags))
    return gauge


def _scalars(report: IterationReport) -> Iterator[tuple[str, float]]:
    yield "rollout/solved_rate", report.solved_rate
    yield "rollout/step_reward", report.step_reward
    yield "rollout/steps", report.steps
    yield "rollout/staleness", report.staleness
    yield "rollout/sampled_tokens", report.sampled_tokens
    yield "rollout/continuation_tokens", report.continuation_tokens
    yield "rollout/continuations_lost", report.continuations_lost
    yield "weights/canary_gap", report.canary_gap
    groups = {
        "signal": report.signals,
        "learner": report.learner,
        "seconds": report.seconds,
        "level_solved": report.level_solved,
        "level_share": report.level_share,
    }
    for group, values in groups.items():
        for name, value in values.items():
            yield f"{group}/{name}", value
