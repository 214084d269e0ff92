"""The learner as the driver sees it: ranks in Ray actors, called together.

Owns `LearnerGroup` and the actor shell `LearnerActor`. Every wait has a deadline; a rank that dies or is late raises
`LearnerLost`, after which the gang must be built anew: ranks step together or not at all.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from torch import Tensor

from actors.trajectory import Trajectory
from actors.weights import PublishedWeights, flatten
from learner.config import CreditConfig, LearnerConfig, ValueHeadConfig
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.config import EtoConfig, value_head_of
from learner.errors import LearnerError, LearnerLost
from learner.objective.stats import LossStats
from learner.packing import Demonstration
from learner.preference_rank import PreferenceRank
from learner.rank import LearnerRank
from learner.reports import SftReport, UpdateReport
from learner.saving import PendingSave
from learner.utterance_features import UtteranceFeatures
from tool_sandbox.ray_failures import ACTOR_LOST

Result = TypeVar("Result")


class LearnerActor:
    """Ray shell around one `LearnerRank`. The rank is built by `start`, once rank 0 has chosen a port."""

    def __init__(
        self, config: LearnerConfig, critic: ValueHeadConfig | None, rank: int, preference: EtoConfig | None = None
    ) -> None:
        self._config = config
        self._critic = critic
        self._preference = preference
        self._rank = rank
        self._learner: LearnerRank | None = None

    def choose_address(self) -> tuple[str, int]:
        """A host and a free port for the ranks to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, host: str, port: int) -> int:
        """Join the gang and build the engine; collective."""
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        self._build()
        return self._rank

    def restart(self, critic: ValueHeadConfig | None, preference: EtoConfig | None) -> None:
        """Build the engine anew, from the model's files; the gang stays joined. Collective."""
        self._critic, self._preference = critic, preference
        self._build()

    def _build(self) -> None:
        if self._preference is None:
            self._learner = LearnerRank(self._config, self._critic, self._rank, self._config.ranks)
        else:
            self._learner = PreferenceRank(self._config, self._preference, self._rank, self._config.ranks)

    def run(self, method: str, *arguments: Any) -> Any:
        """Call a method of the rank; collective."""
        if self._learner is None:
            raise RuntimeError(f"learner-{self._rank}: not started; call start() on every rank first")
        return getattr(self._learner, method)(*arguments)

    def publish_weights(self) -> PublishedWeights | None:
        """Put the weights into the object store, from rank 0; None on the others. Collective."""
        parameters = self.run("full_parameters")
        if self._rank != 0:
            return None
        manifest, buffer = flatten(parameters)
        return PublishedWeights(manifest, ray.put(buffer), version=-1)


class LearnerGroup:
    """All ranks of the learner. Not thread-safe: one collective call at a time."""

    def __init__(
        self, config: LearnerConfig, credit: CreditConfig, actor_options: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Start the ranks and wait until each has its engine.

        `actor_options` holds Ray's options for each rank (resources, placement); names and threads are set here.
        Raises `LearnerLost` where a rank does not come up within the deadline.
        """
        self._config = config
        self._credit = credit
        options = actor_options or [{"num_cpus": 0}] * config.ranks
        if len(options) != config.ranks:
            raise ValueError(f"learner: options for {len(options)} ranks, configured {config.ranks}; give one per rank")
        self._actors = [self._spawn(rank, options[rank]) for rank in range(config.ranks)]
        host, port = self._wait([self._actors[0].choose_address.remote()])[0]
        self._wait([actor.start.remote(host, port) for actor in self._actors])

    @property
    def actors(self) -> tuple[Any, ...]:
        """Ray handles, rank 0 first; for publishing weights straight from a rank."""
        return tuple(self._actors)

    def restart(self, credit: CreditConfig) -> None:
        """Forget everything that was learned and begin another run, with the ranks that `credit` needs.

        The processes stay: importing torch and DeepSpeed costs more than a short run of a small model.
        """
        self._credit = credit
        self._wait([actor.restart.remote(value_head_of(credit), _preference(credit)) for actor in self._actors])

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        """One policy update on the whole batch. Statistics are summed over ranks."""
        reports: list[UpdateReport] = self._all("update", list(credited))
        first = reports[0]
        return UpdateReport(
            optimiser_steps=first.optimiser_steps,
            skipped_steps=first.skipped_steps,
            passes=first.passes,
            stats=LossStats.total([report.stats for report in reports]),
            grad_norm=first.grad_norm,
            lr=first.lr,
            kl_coef=first.kl_coef,
            batch_tokens=first.batch_tokens,
            computed_tokens=sum(report.computed_tokens for report in reports),
            phase_seconds={phase: max(one.phase_seconds[phase] for one in reports) for phase in first.phase_seconds},
            seconds=max(report.seconds for report in reports),
        )

    def warm_start(
        self, demonstrations: Sequence[Demonstration], progress: Callable[[SftReport], None] | None = None
    ) -> list[SftReport]:
        """Supervised passes over the demonstrations, in the order given; then the optimiser starts afresh."""
        size = self._config.sft.batch_trajectories
        starts = [start for _ in range(self._config.sft.epochs) for start in range(0, len(demonstrations), size)]
        reports: list[SftReport] = []
        for i, start in enumerate(starts):
            reports.append(self._sft_step(demonstrations[start : start + size], i, len(starts)))
            if progress is not None:
                progress(reports[-1])
        return reports

    def begin_reinforcement(self) -> None:
        """Forget the warm start's Adam moments and freeze the reference policy, where anything compares with it."""
        self._all("begin_reinforcement")

    def values(self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> list[tuple[float, ...]]:
        """V from the value head, at every step of each trajectory or before every action token."""
        return _merge(self._all("values", list(trajectories), at), len(trajectories))

    def features(self, trajectories: Sequence[Trajectory]) -> list[UtteranceFeatures]:
        """Hidden states of the policy before and at the end of every action of each trajectory."""
        shares: list[dict[int, Tensor]] = self._all("features", list(trajectories))
        found = {index: tensor for share in shares for index, tensor in share.items()}
        return [UtteranceFeatures.of(found.get(index)) for index in range(len(trajectories))]

    def step_penalties(self, trajectories: Sequence[Trajectory]) -> list[tuple[float, ...]]:
        """β·KL of every step of each trajectory to the reference, in units of reward, where the KL is in the reward."""
        return _merge(self._all("step_penalties", list(trajectories)), len(trajectories))

    def log_probs(self, sequences: Sequence[Demonstration]) -> list[tuple[float, ...]]:
        """Log-probabilities in nats of the masked tokens of each sequence, at temperature 1."""
        return _merge(self._all("log_probs", list(sequences)), len(sequences))

    def full_parameters(self) -> dict[str, Tensor]:
        """Every parameter under its Hugging Face name, gathered, in the training dtype."""
        return self._all("full_parameters")[0]

    def publish_weights(self) -> PublishedWeights:
        """The current weights in Ray's object store, owned by rank 0."""
        published = self._wait([actor.publish_weights.remote() for actor in self._actors])[0]
        assert published is not None, "rank 0 published nothing"
        return published

    def save(self, path: str) -> PendingSave:
        """Begin a checkpoint in a directory that all ranks see; making it atomic is the caller's business.

        Returns once the ranks have copied their state. Only waiting for the rest may happen in another thread.
        """
        self._all("save", path)
        return PendingSave(lambda: self._all("saved"), self._config.deadline_seconds)

    def load(self, path: str) -> None:
        """Continue from a checkpoint, whatever number of ranks and ZeRO stage wrote it.

        Raises:
            BadCheckpoint: it is of another model or critic, or a part is missing.
        """
        self._all("load", path)

    def shutdown(self) -> None:
        """Stop the ranks."""
        for actor in self._actors:
            ray.kill(actor)

    def _sft_step(self, demonstrations: Sequence[Demonstration], step: int, steps: int) -> SftReport:
        reports: list[SftReport] = self._all("sft_step", list(demonstrations), step, steps)
        loss, tokens = sum(one.loss for one in reports), sum(one.tokens for one in reports)
        return SftReport(step, steps, loss, reports[0].grad_norm, tokens)

    def _spawn(self, rank: int, options: Mapping[str, Any]) -> Any:
        # Threads are read once, when torch loads; passive waiting leaves the cores to the other parts between updates.
        threads = {"OMP_NUM_THREADS": str(self._config.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        runtime_env = {**options.get("runtime_env", {})}
        runtime_env["env_vars"] = {**threads, **runtime_env.get("env_vars", {})}
        chosen = {**options, "name": f"learner-{rank}", "max_restarts": 0, "runtime_env": runtime_env}
        made = self._config, value_head_of(self._credit), rank, _preference(self._credit)
        return ray.remote(LearnerActor).options(**chosen).remote(*made)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        shared = [ray.put(argument) for argument in arguments]
        return self._wait([actor.run.remote(method, *shared) for actor in self._actors])

    def _wait(self, refs: Sequence[ray.ObjectRef[Any]]) -> list[Any]:
        """Results in order. The first failure ends the wait: the other ranks may hang in a collective by then."""
        end = time.monotonic() + self._config.deadline_seconds
        pending = list(refs)
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise LearnerLost(
                    f"learner: {len(pending)} of {len(refs)} ranks silent for {self._config.deadline_seconds:.0f} s; "
                    "start the gang again from the last checkpoint"
                )
            self._result(done[0])
        return [self._result(ref) for ref in refs]

    @staticmethod
    def _result(ref: ray.ObjectRef[Result]) -> Result:
        try:
            return ray.get(ref, timeout=60.0)
        except ACTOR_LOST as error:
            message = f"learner: a rank died ({error}); start the gang again from the last checkpoint"
            raise LearnerLost(message) from error
        except RayTaskError as error:
            if isinstance(error.cause, LearnerError):
                raise error.cause from error
            raise


def _preference(credit: CreditConfig) -> EtoConfig | None:
    return credit if isinstance(credit, EtoConfig) else None


def _merge(shares: Iterable[Mapping[int, tuple[float, ...]]], count: int) -> list[tuple[float, ...]]:
    merged = {index: numbers for share in shares for index, numbers in share.items()}
    return [merged.get(index, ()) for index in range(count)]
