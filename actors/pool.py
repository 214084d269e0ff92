"""The pool of rollout actors: hands out episodes, survives lost actors, carries new weights to every engine.

Built on RLlib's `FaultTolerantActorManager`. The manager forgets requests of an actor that died, so the pool keeps a
lease for each episode and gives it out again. An actor that was lost, or whose engine was, is brought up and given the
newest weights before it plays again; meanwhile the others go on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.rllib.utils.actor_manager import CallResult, FaultTolerantActorManager, RemoteCallResults

from actors.config import RolloutConfig
from actors.engine_environment import engine_environment
from actors.episode import EpisodeRequest
from actors.errors import EngineFailure, RolloutsLost
from actors.recipes import RewardRecipe, SandboxRecipe
from actors.revival import MAX_FAILURES, Revivals, load_arguments
from actors.rollout_actor import RolloutActor
from actors.scoring import ScoredTrajectory
from actors.weights import PublishedWeights
from tool_sandbox.ray_failures import ACTOR_LOST

POLL_SECONDS = 0.25
MAX_ATTEMPTS = 3


@dataclass(slots=True)
class _Lease:
    request: EpisodeRequest
    actor: int
    attempts: int


class RolloutPool:
    """All rollout actors of a run."""

    def __init__(self, actors: Sequence[Any], config: RolloutConfig) -> None:
        self._starting = [actor.start.remote() for actor in actors]
        self._manager = FaultTolerantActorManager(
            list(actors), max_remote_requests_in_flight_per_actor=config.concurrent_episodes, init_id=0
        )
        self._config = config
        self._revivals = Revivals(config.engine.start_seconds)
        self._weights: PublishedWeights | None = None

    @classmethod
    def create(
        cls,
        config: RolloutConfig,
        sandbox: SandboxRecipe,
        rewards: RewardRecipe,
        options: Sequence[dict[str, Any]],
    ) -> RolloutPool:
        """Begin to start one actor for each entry of Ray `options`. `wait` before the pool is used.

        Nothing calls `rewards` before the first episode: the service may come up meanwhile.
        """
        environment = {"env_vars": dict(engine_environment(config.engine))}
        concurrency = config.concurrent_episodes + 8
        remote = ray.remote(RolloutActor)
        actors = [
            remote.options(
                runtime_env=environment, max_concurrency=concurrency, max_restarts=-1, max_task_retries=0, **option
            ).remote(config, sandbox, rewards)
            for option in options
        ]
        return cls(actors, config)

    def wait(self) -> None:
        """Until all engines are up.

        Raises:
            RolloutsLost: one did not come up in time.
        """
        _answers(self._starting, self._config.engine.start_seconds, "start an engine")

    def play(self, requests: Sequence[EpisodeRequest]) -> Iterator[ScoredTrajectory]:
        """Play episodes on whichever actor is free; yields each as it is finished and scored, in no fixed order.

        Raises:
            RolloutsLost: no actor answers, or one episode was lost on three actors.
        """
        waiting = deque(_Lease(request, -1, 0) for request in requests)
        leases: dict[str, _Lease] = {}
        while waiting or leases:
            self._restore()
            self._hand_out(waiting, leases)
            ready = self._manager.fetch_ready_async_reqs(tags=list(leases), timeout_seconds=POLL_SECONDS)
            for result in _results(ready):
                if not result.ok:
                    self._lose(result.actor_id, result.get())
                    continue
                del leases[result.tag]
                yield cast("ScoredTrajectory", result.get())
            self._reclaim(waiting, leases)

    def play_in_lock_step(self, requests: Sequence[EpisodeRequest]) -> list[ScoredTrajectory]:
        """Play a batch deterministically, in order; the episodes are dealt to the actors in turn."""
        actors = [self._manager.actors()[i] for i in sorted(self._manager.actor_ids())]
        shares = [list(requests[i :: len(actors)]) for i in range(len(actors))]
        calls = [actor.play_in_lock_step.remote(share) for actor, share in zip(actors, shares, strict=True) if share]
        deadline = self._config.engine.turn_seconds * self._config.episode.max_steps
        shared = _answers(calls, deadline, "play in lock step")
        played = {one.trajectory.id: one for share in shared for one in share}
        return [played[request.id] for request in requests]

    def load_weights(self, weights: PublishedWeights, deadline_seconds: float) -> None:
        """Have every engine serve `weights`; one that dies of it is restarted and takes them before it plays again.

        Raises:
            RolloutsLost: an engine did not answer in time, serves another version, or none is left.
        """
        self._weights = weights
        self._restore()
        served = self._ask_all("load_weights", load_arguments(weights), deadline_seconds)
        if any(version != weights.version for version in served.values()):
            raise RolloutsLost(f"weights: version {weights.version} was published, engines serve {served}")

    def token_logprobs(
        self, sequences: Sequence[Sequence[int]], label: str, deadline_seconds: float
    ) -> dict[int, list[tuple[float, ...]]]:
        """Log-probabilities of given sequences from every healthy engine, by actor id."""
        arguments = {"sequences": list(sequences), "label": label}
        return self._ask_all("token_logprobs", arguments, deadline_seconds)

    def stop(self) -> None:
        """Shut the engines down and end the actors."""
        actors = list(self._manager.actors().values())
        ray.wait([actor.stop.remote() for actor in actors], num_returns=len(actors), timeout=20)
        for actor in actors:
            ray.kill(actor)

    def _ask_all(self, method: str, arguments: dict[str, Any], deadline_seconds: float) -> dict[int, Any]:
        """The answer of every healthy actor that survives the call, by actor id; at least one, if need be a new one."""
        answers = self._ask(method, arguments, deadline_seconds)
        if not answers:
            self._restore()
            answers = self._ask(method, arguments, deadline_seconds)
        if not answers:
            raise RolloutsLost(f"{method}: no engine survived it, twice; see the rollout actors' logs")
        return answers

    def _ask(self, method: str, arguments: dict[str, Any], deadline_seconds: float) -> dict[int, Any]:
        asked = set(self._manager.healthy_actor_ids())
        called = self._manager.foreach_actor(method, kwargs=arguments, timeout_seconds=deadline_seconds)
        results = _results(called)
        for result in results:
            if not result.ok:
                self._lose(result.actor_id, result.get())
        # The manager leaves out who is late: its engine would go on playing as if it had never been asked.
        late = sorted(asked - {result.actor_id for result in results})
        if late:
            waited = f"within {deadline_seconds:g} s; see the rollout actors' logs"
            raise RolloutsLost(f"{method}: engines {late} did not answer {waited}")
        return {result.actor_id: result.get() for result in results if result.ok}

    def _hand_out(self, waiting: deque[_Lease], leases: dict[str, _Lease]) -> None:
        load = dict.fromkeys(self._manager.healthy_actor_ids(), 0)
        for lease in leases.values():
            load[lease.actor] += 1
        while waiting and load:
            actor = min(load, key=lambda i: load[i])
            if load[actor] >= self._config.concurrent_episodes:
                return
            lease = waiting.popleft()
            lease.actor, lease.attempts = actor, lease.attempts + 1
            fired = self._manager.foreach_actor_async(
                "play", tag=lease.request.id, kwargs={"request": lease.request}, remote_actor_ids=[actor]
            )
            assert fired == 1, f"episode {lease.request.id!r} was dropped by the actor manager"
            leases[lease.request.id] = lease
            load[actor] += 1

    def _reclaim(self, waiting: deque[_Lease], leases: dict[str, _Lease]) -> None:
        healthy = set(self._manager.healthy_actor_ids())
        for key in [key for key, lease in leases.items() if lease.actor not in healthy]:
            lease = leases.pop(key)
            if lease.attempts >= MAX_ATTEMPTS:
                raise RolloutsLost(f"episode {key!r}: lost with its actor {lease.attempts} times; see the actor logs")
            waiting.append(lease)

    def _restore(self) -> None:
        """Take back who has returned. Waits only while there is nobody to play.

        Raises:
            RolloutsLost: nobody returned in time.
        """
        if self._manager.num_healthy_actors() == self._manager.num_actors():
            return
        deadline = time.monotonic() + MAX_FAILURES * self._config.engine.start_seconds
        while True:
            self._take_back(0.0 if self._manager.num_healthy_actors() else POLL_SECONDS)
            if self._manager.num_healthy_actors():
                return
            if all(self._revivals.is_given_up(index) for index in self._manager.actor_ids()):
                raise RolloutsLost(f"rollouts: every engine failed {MAX_FAILURES} times as it came back; see the logs")
            if time.monotonic() > deadline:
                raise RolloutsLost(f"rollouts: no actor came back within {self._config.engine.start_seconds:g} s")
            # An actor that Ray has not restarted yet refuses every call at once.
            time.sleep(POLL_SECONDS)

    def _take_back(self, wait_seconds: float) -> None:
        for index, actor in self._manager.actors().items():
            if not self._manager.is_actor_healthy(index):
                self._revivals.begin(index, actor)
        for index in self._revivals.poll(self._weights, wait_seconds):
            self._manager.set_actor_state(index, healthy=True)

    def _lose(self, index: int, error: Any) -> None:
        """Infrastructure is replaced: a dead actor by Ray, one whose engine died or hangs by us. All else is raised."""
        if isinstance(error, RayTaskError):
            if not isinstance(error.cause, EngineFailure):
                # An exception from inside the actor is our bug, or bad input.
                raise error.cause from error
            if self._manager.is_actor_healthy(index):
                ray.kill(self._manager.actors()[index], no_restart=False)
        elif not isinstance(error, ACTOR_LOST):
            raise error
        self._manager.set_actor_state(index, healthy=False)


def _results(called: RemoteCallResults) -> list[CallResult]:
    # Ray annotates the iterator with the type of what a `CallResult` wraps.
    return [cast("CallResult", result) for result in called]


def _answers(calls: Sequence[Any], deadline_seconds: float, purpose: str) -> list[Any]:
    """The results of calls that every actor must answer."""
    try:
        return ray.get(list(calls), timeout=deadline_seconds)
    except GetTimeoutError as error:
        raise RolloutsLost(f"rollout actors: no answer to {purpose!r} within {deadline_seconds:g} s") from error
    except ACTOR_LOST as error:
        raise RolloutsLost(f"rollout actors: one died when asked to {purpose}: {error}") from error
    except RayTaskError as error:
        raise error.cause from error
