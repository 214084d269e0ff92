"""Small scored episodes, and the parts of a run without Ray, vLLM or DeepSpeed behind the same methods."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console

from actors.episode import EpisodeRequest
from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from cluster.config import RunConfig
from cluster.display import LineDisplay
from cluster.interrupt import StopFlag
from cluster.metrics import IterationReport
from cluster.models import fetch_model
from cluster.presets import load_config
from cluster.run_directory import RunDirectory
from cluster.trainer import Trainer
from learner.credit import CreditedTrajectory, StateAt
from learner.errors import NonFinite
from learner.objective.stats import LossStats
from learner.packing import Demonstration
from learner.reports import SftReport, UpdateReport
from learner.utterance_features import UtteranceFeatures
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall, ToolResult

SMALL = (
    "task.levels=[L0, L1, L2]",
    "task.per_iteration=2",
    "task.group_size=2",
    "learner.minibatches=1",
    "learner.sft.demonstrations=2",
    "loop.iterations=3",
    "evaluation.tasks=6",
    "evaluation.sampled=false",
    "evaluation.every=0",
    "credit.kind=step_gae",
)

REPORT = IterationReport(
    iteration=3,
    version=4,
    solved_rate=0.5,
    step_reward=0.25,
    signals={"success": 0.75},
    steps=2.5,
    trajectories=4,
    abstained_steps=1,
    action_tokens=120,
    sampled_tokens=120,
    continuation_tokens=0,
    continuation_episodes=0,
    continuations_lost=0,
    staleness=0.25,
    learner={"loss": 0.125, "grad_norm": 0.5},
    level_solved={"L0": 0.75, "L1": 0.25},
    level_share={"L0": 0.5, "L1": 0.5},
    seconds={"rollout": 4.0, "update": 2.0},
    canary_gap=0.03,
)


def small_config(*overrides: str) -> RunConfig:
    """Quickstart with two tasks of two episodes and three iterations."""
    model = fetch_model("smollm2-135m", progress=lambda _: None)
    return load_config("quickstart", [*SMALL, f"rollout.model={model}", f"learner.model_path={model}", *overrides])


def task(level: str = "L1", minimum_calls: int = 1) -> Task:
    truth = GroundTruth(answer="7", minimum_calls=minimum_calls)
    return Task(f"ledger-{level}", "ledger", "How much?", (), truth, level, Split.TEST_IID, {})


def call_step(before: int = 1, after: int = 0, version: int = 1, tokens: int = 2) -> Step:
    """A call after which `after` more are needed."""
    return Step(
        prompt_ids=(1, 2, 3),
        action_ids=(4,) * tokens,
        logprobs=(-0.5,) * tokens,
        versions=(VersionSpan(version, 0, tokens),),
        action=ToolCall("c-0", "price", {"item": "lamp"}),
        result=ToolResult("c-0", CallStatus.OK, "7"),
        progress=Progress(before, after),
    )


def answer_step(version: int = 1, tokens: int = 2, token: int = 5) -> Step:
    return Step((9,), (token,) * tokens, (-0.5,) * tokens, (VersionSpan(version, 0, tokens),), Answer("7"), None, None)


def episode(
    steps: Sequence[Step],
    solved: float | None,
    *,
    about: Task | None = None,
    rewards: Sequence[StepReward] | None = None,
    id: str = "t-0",
    group: str = "g-0",
) -> ScoredTrajectory:
    """A scored episode; the last step earns `solved` unless `rewards` says otherwise."""
    trajectory = Trajectory(id, group, about or task(), tuple(steps), StopReason.ANSWERED)
    rewards = rewards or [StepReward(0.0, {})] * (len(steps) - 1) + [StepReward(solved, {"solved": solved})]
    return ScoredTrajectory(trajectory, TrajectoryReward(id, tuple(rewards), solved, "v1"))


def _made_up(trajectory: Trajectory) -> UtteranceFeatures:
    """Features that depend on nothing but the trajectory's name, of width 8."""
    dice = torch.Generator().manual_seed(sum(map(ord, trajectory.id)))
    return UtteranceFeatures.of(torch.randn(2 * len(trajectory.steps), 8, generator=dice).half())


class FakeLearner:
    """Its weights are one number, which every update raises."""

    def __init__(self, log: list[str], teaches: bool = True) -> None:
        self.log = log
        self.teaches = teaches
        self.overflows = False
        self.seen: list[CreditedTrajectory] = []
        self.weights = 0

    def values(self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> Sequence[Sequence[float]]:
        raise AssertionError("the progress table needs no value head")

    def features(self, trajectories: Sequence[Trajectory]) -> Sequence[UtteranceFeatures]:
        self.log.append("features")
        return [_made_up(one) for one in trajectories]

    def step_penalties(self, trajectories: Sequence[Trajectory]) -> list[tuple[float, ...]]:
        self.log.append("step penalties")
        return [(0.25,) * len(one.steps) for one in trajectories]

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        self.log.append("update")
        self.seen = list(credited)
        if self.overflows:
            raise NonFinite("rank 0: loss nan; the step was not made")
        self.weights += self.teaches
        tokens = sum(one.scored.trajectory.token_count for one in credited)
        stats = replace(LossStats.total([]), loss=0.25 * self.weights, tokens=tokens, ratio_sum=float(tokens))
        return UpdateReport(int(self.teaches), 0, 1, stats, 0.5, 1e-5, 0.0, tokens, tokens, {}, 0.1)

    def warm_start(self, demonstrations: Sequence[Demonstration], progress: Callable[[SftReport], None]) -> None:
        self.log.append(f"warm start on {len(demonstrations)}")
        progress(SftReport(0, 1, 2.0, 1.0, 100))

    def begin_reinforcement(self) -> None:
        self.log.append("begin reinforcement")

    def publish_weights(self) -> Any:
        self.log.append("publish")
        return SimpleNamespace(manifest=SimpleNamespace(byte_count=8, weights=self.weights), reference=None)

    def log_probs(self, sequences: Sequence[Demonstration]) -> list[tuple[float, ...]]:
        return [(-float(self.weights),) * sum(one.action_mask) for one in sequences]

    def save(self, path: str) -> Any:
        self.log.append("save")
        model = Path(path) / "model"
        model.mkdir(parents=True)
        (Path(path) / "weights.json").write_text(json.dumps(self.weights))
        return SimpleNamespace(wait=dict)

    def load(self, path: str) -> None:
        self.log.append("load")
        self.weights = json.loads((Path(path) / "weights.json").read_text())


def every_other(request: EpisodeRequest) -> float:
    """The outcome of an episode: the second of each pair is solved."""
    return float(int(request.id[-1]) % 2)


class FakeRollouts:
    """Plays one call and an answer, and hands the episodes out in the wrong order."""

    def __init__(
        self,
        log: list[str],
        before_each: Callable[[EpisodeRequest], None] = lambda _: None,
        outcome: Callable[[EpisodeRequest], float] = every_other,
    ) -> None:
        self.log = log
        self.played: list[EpisodeRequest] = []
        self._before_each = before_each
        self._outcome = outcome
        self._weights = self._version = -1

    def play(self, requests: Sequence[EpisodeRequest]) -> Iterator[ScoredTrajectory]:
        self.log.append(f"play {len(requests)}")
        for request in reversed(requests):
            self._before_each(request)
            yield self._play(request)

    def play_in_lock_step(self, requests: Sequence[EpisodeRequest]) -> list[ScoredTrajectory]:
        self.log.append(f"play {len(requests)} in lock step")
        return [self._play(request) for request in requests]

    def load_weights(self, weights: Any, deadline_seconds: float) -> None:
        self.log.append(f"load version {weights.version}")
        self._weights, self._version = weights.manifest.weights, weights.version

    def token_logprobs(
        self, sequences: Sequence[Sequence[int]], label: str, deadline_seconds: float
    ) -> Mapping[int, Sequence[Sequence[float]]]:
        self.log.append(label)
        return {0: [(-float(self._weights),) * (len(ids) - 1) for ids in sequences]}

    def _play(self, request: EpisodeRequest) -> ScoredTrajectory:
        self.played.append(request)
        done = request.prefix.steps if request.prefix else ()
        # The members of a group end with other words.
        answer = answer_step(version=self._version, token=5 + int(request.id[-1]))
        steps = [*done, *[call_step(version=self._version), answer][len(done) :]]
        return episode(steps, self._outcome(request), about=request.task, id=request.id, group=request.group)


class FakeRun:
    """A trainer over fake parts, and what happened to them."""

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        *,
        teaches: bool = True,
        before_each: Callable[[StopFlag, EpisodeRequest], None] = lambda flag, request: None,
        outcome: Callable[[EpisodeRequest], float] = every_other,
        learner: FakeLearner | None = None,
    ) -> None:
        self.log: list[str] = learner.log if learner else []
        self.stop = StopFlag()
        self.directory = RunDirectory(path)
        self.directory.create(config)
        self.learner = learner or FakeLearner(self.log, teaches)
        self.rollouts = FakeRollouts(self.log, lambda request: before_each(self.stop, request), outcome)
        self.screen = StringIO()
        parts: Any = SimpleNamespace(learner=self.learner, rollouts=self.rollouts)
        display = LineDisplay(Console(file=self.screen, width=200))
        self.trainer = Trainer(config, self.directory, parts, display, self.stop)

    def tasks_of(self, iteration: int) -> list[str]:
        """Ids of the training tasks that an iteration played, in the order of its requests."""
        played = [request for request in self.rollouts.played if request.id.startswith(f"{iteration:05d}/")]
        return [request.task.id for request in sorted(played, key=lambda request: request.id)]


def stop_in_iteration(number: int) -> Callable[[StopFlag, EpisodeRequest], None]:
    """For `before_each`: a signal comes while the last episode of an iteration is played."""

    def before_each(flag: StopFlag, request: EpisodeRequest) -> None:
        if request.id == f"{number:05d}/000/00":
            flag.set()

    return before_each
