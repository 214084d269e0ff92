"""`steptool replay`: an iteration of a recorded run, done again from what the run left on disk.

Consumes a run directory: the newest checkpoint before the iteration, and the trajectories recorded since. Produces the
loss and the gradient norm of every update on the way, beside the recorded ones. Credit is computed anew from the
recorded rewards by an estimator that continues from the checkpoint; nothing is sampled and nothing is scored. What
continuations earned is read from where the run kept it. Each update is done in the layout that it was recorded in:
where the run went on in another one, the learner is started anew from a copy of what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from actors.storage import StoredTrajectory, read_trajectories
from actors.trajectory import Trajectory
from cluster.checkpoint import list_checkpoints, newest_sound
from cluster.config import RunConfig
from cluster.continuations import recorded_continuations
from cluster.errors import BadConfiguration, NotReproduced
from cluster.launch import check_inputs, ray_session
from cluster.layout import laid_out
from cluster.run_directory import RunDirectory
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.config import MonteCarloConfig
from learner.credit.monte_carlo import ReadContinuations
from learner.estimator import CreditAssigner
from learner.group import LearnerGroup
from learner.objective.penalty import as_credit_sees
from learner.reports import UpdateReport
from learner.saving import PendingSave
from learner.utterance_features import UtteranceFeatures


class ReplayLearner(Protocol):
    """What a replay needs of the learner."""

    def save(self, path: str) -> PendingSave: ...
    def load(self, path: str) -> None: ...
    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport: ...
    def values(
        self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS
    ) -> Sequence[tuple[float, ...]]: ...

    def features(self, trajectories: Sequence[Trajectory]) -> Sequence[UtteranceFeatures]: ...
    def step_penalties(self, trajectories: Sequence[Trajectory]) -> Sequence[tuple[float, ...]]: ...


StartLearner = Callable[[RunConfig], AbstractContextManager[ReplayLearner]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One update, as it was recorded and as it came out again."""

    iteration: int
    checkpoint: int
    """Iteration of the checkpoint from which the replay began."""
    recorded_loss: float
    loss: float
    recorded_grad_norm: float
    grad_norm: float
    advantage_gap: float
    """Largest |recorded − recomputed| step advantage; infinite where only one of the two has credit."""

    @property
    def exact(self) -> bool:
        """Equal to the last bit."""
        same = (self.loss, self.grad_norm) == (self.recorded_loss, self.recorded_grad_norm)
        return same and self.advantage_gap == 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "exact": self.exact}


def replay(run: Path, iteration: int, warn: Callable[[str], None], start: StartLearner) -> Iterator[Replayed]:
    """Do the updates from the newest checkpoint before `iteration` up to it again; yields each as it is done.

    Raises:
        BadConfiguration: no such run, or this iteration cannot be done again; says which can.
        CheckpointError: every checkpoint that would do is damaged.
    """
    directory = RunDirectory(run)
    config = check_inputs(directory.read_config())
    _expect_replayable(directory, iteration)
    found = newest_sound(directory.checkpoints, warn, before=iteration)
    assert found is not None, "a replayable iteration has a checkpoint before it"
    checkpoint, state = found
    numbers = range(state.iteration + 1, iteration + 1)
    records = {record["iteration"]: record for record in directory.read_metrics()}
    read = _continuations(directory, config, numbers)
    stretches = [list(some) for _, some in groupby((records[n] for n in numbers), key=_recorded_layout)]
    files, credit = checkpoint / "learner", state.credit
    with ExitStack() as stack:
        for stretch in stretches:
            with start(laid_out(config, _recorded_layout(stretch[0]))) as learner:
                learner.load(str(files))
                assigner = CreditAssigner(config.credit, learner.values, read, read_features=learner.features)
                assigner.restore(credit)
                for record in stretch:
                    yield _done_again(directory, config, learner, assigner, record, state.iteration)
                if stretch is not stretches[-1]:
                    # Beside the run's own checkpoints: where all ranks see it.
                    files = Path(stack.enter_context(TemporaryDirectory(dir=run, prefix=".replay-")))
                    learner.save(str(files)).wait()
                    credit = assigner.state()


def _recorded_layout(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("layout", {})


def _done_again(
    directory: RunDirectory,
    config: RunConfig,
    learner: ReplayLearner,
    assigner: CreditAssigner,
    record: Mapping[str, Any],
    checkpoint: int,
) -> Replayed:
    stored = read_trajectories(directory.trajectories_of(record["iteration"]))
    scored = [one.scored for one in stored]
    credited = assigner.assign(as_credit_sees(scored, config.learner.loss.kl, learner.step_penalties))
    update = learner.update(credited)
    return Replayed(
        iteration=record["iteration"],
        checkpoint=checkpoint,
        recorded_loss=record["loss"],
        loss=update.stats.loss,
        recorded_grad_norm=record["learner"]["grad_norm"],
        grad_norm=update.grad_norm,
        advantage_gap=_advantage_gap(stored, credited),
    )


def _continuations(directory: RunDirectory, config: RunConfig, iterations: range) -> ReadContinuations | None:
    if not isinstance(config.credit, MonteCarloConfig):
        return None
    return recorded_continuations(directory, iterations)


def expect_reproduced(done: Replayed, config: RunConfig) -> None:
    """Raise `NotReproduced` where a float32 run came out otherwise than it was recorded."""
    if done.exact or config.learner.dtype != "float32":
        return
    raise NotReproduced(
        f"iteration {done.iteration}: loss {done.loss!r} and gradient norm {done.grad_norm!r}, recorded "
        f"{done.recorded_loss!r} and {done.recorded_grad_norm!r}, largest gap of an advantage {done.advantage_gap:g}; "
        "expected equal numbers in float32. Compare the versions in summary.json and the machine with those of the "
        "run, and learner.ranks and learner.threads too where its metrics.jsonl holds no layout"
    )


@contextmanager
def started_learner(config: RunConfig) -> Iterator[LearnerGroup]:
    """The learner of a run, alone on a Ray."""
    options = {"num_cpus": 0, "num_gpus": config.placement.learner_gpus}
    with ray_session():
        learner = LearnerGroup(config.learner, config.credit, [options] * config.learner.ranks)
        try:
            yield learner
        finally:
            learner.shutdown()


def replayable(directory: RunDirectory) -> list[int]:
    """Iterations with a checkpoint before them, from which on every batch is recorded."""
    recorded = {record["iteration"] for record in directory.read_metrics()}
    complete = {number for number in recorded if directory.trajectories_of(number).is_file()}
    found: set[int] = set()
    for path in list_checkpoints(directory.checkpoints):
        number = int(path.name) + 1
        while number in complete:
            found.add(number)
            number += 1
    return sorted(found)


def _expect_replayable(directory: RunDirectory, iteration: int) -> None:
    possible = replayable(directory)
    if iteration not in possible:
        kept = ", ".join(str(int(path.name)) for path in list_checkpoints(directory.checkpoints)) or "none"
        raise BadConfiguration(
            f"run {directory.path}: iteration {iteration} cannot be replayed; those that can: {_ranges(possible)}. It "
            f"takes a checkpoint from before it (kept: {kept}) and the trajectories since; `checkpoint.keep` decides "
            "what a run keeps"
        )


def _ranges(numbers: Sequence[int]) -> str:
    """`1 to 4, 7`; none where there is no number."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "none"


def _advantage_gap(stored: Sequence[StoredTrajectory], credited: Sequence[CreditedTrajectory]) -> float:
    pairs = (
        (before, after)
        for one, again in zip(stored, credited, strict=True)
        for before, after in zip(one.advantages, again.advantages, strict=True)
    )
    return max((_gap(before, after) for before, after in pairs), default=0.0)


def _gap(before: float | None, after: float | None) -> float:
    if before is None or after is None:
        return 0.0 if before is after else float("inf")
    return abs(before - after)
