"""Continuations: what the policy earns from the states of its own trajectories, for credit by Monte Carlo.

Owns `Continuations` and the file in which a run keeps what they earned. Consumes trajectories and somebody who plays
episodes; produces returns as `learner.credit.monte_carlo` reads them. States of one group with the same tokens are one
state, and are played from once: above all the prompt, which the whole group shares.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.episode import EpisodeRequest
from actors.prefix import prefix_before
from actors.scoring import ScoredTrajectory
from actors.trajectory import Trajectory
from cluster.batch import request_seed
from cluster.config import RunConfig
from cluster.errors import BadConfiguration
from cluster.run_directory import RunDirectory, write_atomically
from learner.credit.config import MonteCarloConfig
from learner.credit.monte_carlo import ReadContinuations, return_from

ATTEMPTS = 2
"""A continuation that infrastructure cut is played once more. Whether it is cut does not depend on how it would have
ended, so that the mean of those that are left is still unbiased."""

Play = Callable[[Sequence[EpisodeRequest], str], Sequence[ScoredTrajectory]]
"""Plays episodes under a label that a person sees, and gives them back in the order of the requests."""
Returns = dict[str, list[list[float]]]
"""By trajectory, step and continuation: discounted from the state before the step, in units of reward."""
Key = tuple[str, tuple[int, ...]]
"""A group and the tokens of a state."""


@dataclass(frozen=True, slots=True)
class Continued:
    """What the continuations of one batch came to."""

    returns: Returns = field(default_factory=Returns)
    episodes: int = 0
    action_tokens: int = 0
    """Sampled after the prefixes."""
    lost: int = 0
    """Continuations without a return, although they were played again."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One continuation from the state before a step."""

    key: Key
    trajectory: Trajectory
    step: int
    number: int


@dataclass(slots=True)
class _Account:
    """What was earned so far, and spent on it."""

    earned: dict[Key, list[float]]
    episodes: int = 0
    action_tokens: int = 0

    def book(self, wanted: _Wanted, played: ScoredTrajectory, gamma: float) -> bool:
        """Whether the continuation came to a return."""
        self.episodes += 1
        self.action_tokens += sum(len(step.action_ids) for step in played.trajectory.steps[wanted.step :])
        earned = return_from(played, wanted.step, gamma)
        if earned is not None:
            self.earned[wanted.key].append(earned)
        return earned is not None


class Continuations:
    """Plays them with the policy that the engines serve, and remembers what the newest batch came to."""

    def __init__(self, config: RunConfig, play: Play, warn: Callable[[str], None]) -> None:
        self._config = config
        self._play = play
        self._warn = warn
        self.newest = Continued()

    def read(self, trajectories: Sequence[Trajectory], count: int) -> list[list[list[float]]]:
        """`ReadContinuations`: `count` returns of every state, fewer where continuations were lost."""
        keys = [[_key(one, step) for step in range(len(one.steps))] for one in trajectories]
        wanted = _wanted(trajectories, keys, count)
        account = _Account({one.key: [] for one in wanted})
        for attempt in range(ATTEMPTS):
            wanted = self._played(wanted, attempt, account)
        returns = {one.id: [account.earned[key] for key in own] for one, own in zip(trajectories, keys, strict=True)}
        self.newest = Continued(returns, account.episodes, account.action_tokens, len(wanted))
        self._tell(account)
        return list(returns.values())

    def _played(self, wanted: Sequence[_Wanted], attempt: int, account: _Account) -> list[_Wanted]:
        """Play them; returns those that were lost."""
        if not wanted:
            return []
        credit = self._config.credit
        assert isinstance(credit, MonteCarloConfig), "no other estimator reads continuations"
        played = self._play([self._request(one, attempt) for one in wanted], "continuations")
        return [one for one, end in zip(wanted, played, strict=True) if not account.book(one, end, credit.gamma)]

    def _request(self, wanted: _Wanted, attempt: int) -> EpisodeRequest:
        sampling, trajectory = self._config.rollout.sampling, wanted.trajectory
        name = f"{trajectory.id}@{wanted.step}.{attempt}/{wanted.number:02d}"
        return EpisodeRequest(
            id=name,
            group=trajectory.group,
            task=trajectory.task,
            temperature=sampling.temperature,
            max_turn_tokens=sampling.max_turn_tokens,
            seed=request_seed(self._config.seed, name) if self._config.deterministic else None,
            prefix=prefix_before(trajectory, wanted.step),
        )

    def _tell(self, account: _Account) -> None:
        unknown = sum(not earned for earned in account.earned.values())
        if unknown:
            self._warn(
                f"continuations: none from {unknown} of {len(account.earned)} states came to an end, played {ATTEMPTS} "
                "times; the steps beside these states have no credit; see the rollout actors' logs"
            )


def keep_continuations(directory: RunDirectory, iteration: int, returns: Returns) -> None:
    """Write what the continuations of an iteration earned, for `recorded_continuations`."""
    path = directory.continuations_of(iteration)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(returns, allow_nan=False) + "\n")


def recorded_continuations(directory: RunDirectory, iterations: Iterable[int]) -> ReadContinuations:
    """What continuations earned when the run played them: nothing is played again.

    Raises:
        BadConfiguration: an iteration has no record of them.
    """
    recorded = Returns()
    for iteration in iterations:
        recorded |= _read(directory.continuations_of(iteration))

    def read(trajectories: Sequence[Trajectory], count: int) -> list[list[list[float]]]:
        del count
        return [recorded[one.id] for one in trajectories]

    return read


def _read(path: Path) -> Returns:
    if not path.is_file():
        raise BadConfiguration(
            f"{path}: not there; an iteration with credit.kind=monte_carlo can be replayed only where what its "
            "continuations earned is recorded"
        )
    return json.loads(path.read_text())


def _wanted(trajectories: Sequence[Trajectory], keys: Sequence[Sequence[Key]], count: int) -> list[_Wanted]:
    """`count` from every state that is not the same as an earlier one."""
    first: dict[Key, tuple[Trajectory, int]] = {}
    for one, own in zip(trajectories, keys, strict=True):
        for step, key in enumerate(own):
            first.setdefault(key, (one, step))
    return [_Wanted(key, one, step, number) for key, (one, step) in first.items() for number in range(count)]


def _key(trajectory: Trajectory, step: int) -> Key:
    return trajectory.group, prefix_before(trajectory, step).token_ids
