"""The loop: tasks → trajectories → step rewards → step advantages → update → new weights, again and again.

Owns `Trainer` and nothing else that lives longer than an iteration. Every stage is someone else's; this file is the
order in which they come.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from actors.episode import EpisodeRequest
from actors.scoring import ScoredTrajectory
from actors.storage import write_trajectories
from cluster.batch import (
    canary_sequences,
    next_curriculum,
    training_requests,
    training_tasks,
    warm_start_demonstrations,
)
from cluster.checkpoint import (
    RunState,
    WaitForFiles,
    begin_checkpoint,
    copy_tokenizer,
    list_checkpoints,
    newest_sound,
    remove_scraps,
    set_aside_after,
)
from cluster.checkpoint_writer import CheckpointWriter
from cluster.config import KeepConfig, RunConfig
from cluster.continuations import Continuations, keep_continuations
from cluster.display import Display
from cluster.errors import Stopped
from cluster.evaluation import Evaluation, evaluation_requests, heldout_tasks, summarise
from cluster.forking import Groups, play_groups
from cluster.interrupt import StopFlag
from cluster.iteration import Gathered, report_of
from cluster.metrics import IterationReport, MetricSink, count_solved
from cluster.parts import Parts
from cluster.run_directory import RunDirectory
from learner.credit import CreditedTrajectory, uniform_groups
from learner.credit import summarise as summarise_credit
from learner.credit.config import resampling_rounds
from learner.errors import NonFinite
from learner.estimator import CreditAssigner
from learner.objective.penalty import as_credit_sees
from learner.publish import CanaryBounds, ObjectStorePublisher, PublishReport, WeightPublisher
from learner.reports import SftReport, UpdateReport


@dataclass(slots=True)
class Stopwatch:
    """Wall seconds by phase of one iteration."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run has to say."""

    before: Evaluation
    after: Evaluation
    state: RunState


class Trainer:
    """One run over running parts."""

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        parts: Parts,
        display: Display,
        stop: StopFlag,
        began: float | None = None,
    ) -> None:
        """`began`: when the command started, on the monotonic clock; None: now."""
        self._config = config
        self._directory = directory
        self._parts = parts
        self._display = display
        self._stop = stop
        self._continuations = Continuations(config, self._play, display.warn)
        self._credit = CreditAssigner(
            config.credit, parts.learner.values, self._continuations.read, read_features=parts.learner.features
        )
        self._publisher = _publisher(config, parts)
        self._began = time.monotonic() if began is None else began
        self._heldout = heldout_tasks(config.task, config.evaluation)
        self._writer = CheckpointWriter(config.learner.deadline_seconds)
        self.last_batch: list[ScoredTrajectory] = []
        """Trajectories of the newest iteration."""

    def run(self) -> Outcome:
        """Train to the end of the budget, from wherever the run directory stands.

        Raises:
            Stopped: a signal came; the last finished iteration is saved.
        """
        try:
            outcome = self._run()
        except Stopped:
            # It promises that everything is saved.
            self._writer.finish()
            raise
        except BaseException:
            self._writer.leave(self._display.warn)
            raise
        self._writer.finish()
        return outcome

    def _run(self) -> Outcome:
        state = self._resume() or self._begin()
        before = self._directory.evaluation("before") or self._evaluate("before")
        state = self._train(state)
        return Outcome(before, self._evaluate("after"), state)

    def iterate(self, state: RunState) -> tuple[RunState, IterationReport]:
        """One turn of the loop. A stop request is heeded while episodes play, never after the update has begun."""
        watch, iteration = Stopwatch(), state.iteration + 1
        batch = self._gather(state, iteration, watch)
        with watch.phase("update"):
            update = self._update(iteration, batch.credited)
        with watch.phase("publish"):
            published = self._publish(state.version + 1) if update.optimiser_steps else None
        with watch.phase("store"):
            self._store(iteration, batch)
        self.last_batch = batch.scored
        after = self._next(state, batch, sum(watch.seconds.values()), published is not None)
        gap = published.mean_gap if published else 0.0
        learner = {**update.summary(), **summarise_credit(batch.credited).metrics(), **self._credit.metrics()}
        return after, report_of(after, state.version, batch, learner, watch.seconds, gap)

    def _train(self, state: RunState) -> RunState:
        sink = MetricSink(self._directory, self._config)
        try:
            while not self._is_finished(state):
                state, report = self.iterate(state)
                sink.write(report)
                self._display.iteration(report, self._config.loop.iterations)
                self._between_iterations(state)
        except Stopped:
            # Raised only where the learner has not moved since `state`, so `state` is what it holds.
            self._writer.finish()
            if state.iteration > self._last_saved():
                self._save(state)
            raise
        finally:
            sink.close()
        return state

    def _between_iterations(self, state: RunState) -> None:
        self._writer.check()
        if state.iteration % self._config.checkpoint.every == 0 or self._is_finished(state):
            self._save(state)
        every = self._config.evaluation.every
        if every and state.iteration % every == 0 and not self._is_finished(state):
            self._evaluate(f"iteration {state.iteration}")
        self._stop.check()

    def begin(self) -> RunState:
        """Warm start and first publish: where a run without a checkpoint stands before its first iteration."""
        self._warm_start()
        self._publish(1)
        return RunState(0, 1, 0, 0.0, self._credit.state())

    def restore(self, root: Path) -> RunState | None:
        """Put learner, estimator, metrics and engines where the newest sound checkpoint under `root` was written.

        None where there is none, and nothing has changed.

        Raises:
            CheckpointError: every checkpoint is damaged.
        """
        found = newest_sound(root, self._display.warn)
        if found is None:
            return None
        checkpoint, state = found
        self._display.note(f"resuming from {checkpoint}")
        self._parts.learner.load(str(checkpoint / "learner"))
        self._credit.restore(state.credit)
        self._directory.drop_metrics_after(state.iteration)
        self._publish(state.version)
        return state

    def save(self, state: RunState, root: Path, keep: KeepConfig) -> None:
        """Begin a checkpoint of `state`, which is what the learner holds, under `root`; the loop may go on."""
        self._display.note(f"saving checkpoint {state.iteration}")
        self._writer.start(lambda: begin_checkpoint(root, state, self._begin_writing, keep))

    def finish_saving(self) -> None:
        """Wait until the checkpoint that was begun is complete."""
        self._writer.finish()

    def _begin(self) -> RunState:
        state = self.begin()
        self._save(state)
        return state

    def _resume(self) -> RunState | None:
        root = self._directory.checkpoints
        remove_scraps(root)
        state = self.restore(root)
        if state is not None:
            set_aside_after(root, state.iteration)
        return state

    def _warm_start(self) -> None:
        if self._config.learner.sft.demonstrations:
            self._parts.learner.warm_start(warm_start_demonstrations(self._config), self._watch_warm_start)
        self._parts.learner.begin_reinforcement()

    def _watch_warm_start(self, report: SftReport) -> None:
        self._display.warm_start(report)
        self._stop.check()

    def _gather(self, state: RunState, iteration: int, watch: Stopwatch) -> Gathered:
        """Play and give credit; and again with other tasks for the groups that teach nothing, where that is wanted."""
        scored, shared_tokens = list[ScoredTrajectory](), 0
        credited: list[CreditedTrajectory] = []
        draws, lacking, kl = list[int](), self._config.task.per_iteration, self._config.learner.loss.kl
        for _ in range(1 + resampling_rounds(self._config.credit)):
            draws.append(lacking)
            with watch.phase("rollout"):
                groups = self._collect(state, iteration, draws)
            scored, shared_tokens = scored + groups.scored, shared_tokens + groups.shared_tokens
            with watch.phase("credit"):
                credited = self._credit.assign(as_credit_sees(scored, kl, self._parts.learner.step_penalties))
            lacking = self._config.task.per_iteration - sum(draws) + len(uniform_groups(credited))
            if not lacking:
                break
        return Gathered(scored, credited, draws, shared_tokens, self._continuations.newest)

    def _collect(self, state: RunState, iteration: int, draws: Sequence[int]) -> Groups:
        tasks = training_tasks(self._config, state.cursor, state.curriculum, draws)
        requests = training_requests(self._config, tasks, iteration, sum(draws[:-1]))
        return play_groups(self._config, requests, lambda some: self._play(some, f"iteration {iteration}"))

    def _play(self, requests: Sequence[EpisodeRequest], label: str) -> list[ScoredTrajectory]:
        """Play episodes, in the order of the requests; a stop request ends it and keeps nothing."""
        self._stop.check()
        if self._config.deterministic:
            return self._play_in_lock_step(requests, label)
        order = {request.id: i for i, request in enumerate(requests)}
        played: list[ScoredTrajectory] = []
        for one in self._parts.rollouts.play(requests):
            self._stop.check()
            played.append(one)
            self._display.episode(label, len(played), len(requests))
        return sorted(played, key=lambda one: order[one.trajectory.id])

    def _play_in_lock_step(self, requests: Sequence[EpisodeRequest], label: str) -> list[ScoredTrajectory]:
        """As many at once as any other run plays: one that waited for a session would keep all others waiting."""
        at_once = self._config.rollout.actors * self._config.rollout.concurrent_episodes
        played: list[ScoredTrajectory] = []
        for start in range(0, len(requests), at_once):
            self._stop.check()
            played += self._parts.rollouts.play_in_lock_step(requests[start : start + at_once])
            self._display.episode(label, len(played), len(requests))
        return played

    def _update(self, iteration: int, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        """Raises `NonFinite` with the file that holds the batch."""
        try:
            return self._parts.learner.update(credited)
        except NonFinite as error:
            path = self._directory.nonfinite / f"{iteration:05d}.parquet"
            path.parent.mkdir(exist_ok=True)
            write_trajectories(path, [one.scored for one in credited], [one.advantages for one in credited])
            raise NonFinite(f"iteration {iteration}: {error}; the batch is in {path}") from error

    def _publish(self, version: int) -> PublishReport:
        report = self._publisher.publish(version)
        self._display.published(report)
        return report

    def _evaluate(self, label: str) -> Evaluation:
        began = time.monotonic()
        greedy = self._heldout_rate(label, 0.0)
        temperature = self._config.rollout.sampling.temperature
        sampled = self._heldout_rate(label, temperature) if self._config.evaluation.sampled else None
        self._directory.append_evaluation(label, greedy, sampled, time.monotonic() - began)
        return greedy

    def _heldout_rate(self, label: str, temperature: float) -> Evaluation:
        seed = self._config.seed
        requests = evaluation_requests(self._heldout, self._config.rollout, temperature, label, seed)
        evaluation = summarise(self._play(requests, f"evaluation {label}"))
        self._display.evaluation(label, temperature, evaluation)
        return evaluation

    def _store(self, iteration: int, batch: Gathered) -> None:
        if batch.continued.returns:
            keep_continuations(self._directory, iteration, batch.continued.returns)
        path = self._directory.trajectories_of(iteration)
        write_trajectories(path, batch.scored, [one.advantages for one in batch.credited])

    def _save(self, state: RunState) -> None:
        self.save(state, self._directory.checkpoints, self._config.checkpoint.keep)

    def _begin_writing(self, directory: Path) -> WaitForFiles:
        learner = directory / "learner"
        pending = self._parts.learner.save(str(learner))

        def wait() -> dict[str, str]:
            digests = pending.wait()
            copy_tokenizer(Path(self._config.rollout.model), learner / "model")
            return {f"learner/{name}": digest for name, digest in digests.items()}

        return wait

    def _last_saved(self) -> int:
        saved = list_checkpoints(self._directory.checkpoints)
        return int(saved[-1].name) if saved else -1

    def _next(self, state: RunState, batch: Gathered, seconds: float, updated: bool) -> RunState:
        solved = count_solved(batch.scored)
        return RunState(
            iteration=state.iteration + 1,
            version=state.version + updated,
            cursor=state.cursor + sum(batch.draws),
            train_seconds=state.train_seconds + seconds,
            credit=self._credit.state(),
            curriculum=next_curriculum(self._config.task, state.curriculum, solved, batch.draws),
        )

    def _is_finished(self, state: RunState) -> bool:
        loop = self._config.loop
        trained_enough = loop.train_seconds is not None and state.train_seconds >= loop.train_seconds
        return trained_enough or state.iteration >= loop.iterations or self._is_late(state)

    def _is_late(self, state: RunState) -> bool:
        """Whether one more iteration and the last evaluation, as long as those before, would take too long."""
        limit = self._config.loop.total_seconds
        if limit is None or state.iteration == 0:
            return False
        needed = state.train_seconds / state.iteration + self._directory.evaluation_seconds("before")
        return time.monotonic() - self._began + needed > limit


def _publisher(config: RunConfig, parts: Parts) -> WeightPublisher:
    canary = config.canary
    bounds = CanaryBounds(
        canary.float32_mean_gap, canary.float32_max_gap, canary.bfloat16_mean_gap, config.rollout.engine.dtype
    )
    return ObjectStorePublisher(parts.learner, parts.rollouts, canary_sequences(config), bounds)
