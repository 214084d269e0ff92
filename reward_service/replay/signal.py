"""Replays as a signal: off the event loop, a few at once, and no longer than somebody waits.

Owns `Replays`, which `measuring` asks, and what becomes of a replay that ended without a measurement: a trajectory
that cannot be repeated abstains, one that lacks what the method needs cannot be scored, and a lost sandbox is
infrastructure.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from reward_service.answers import NORMALISED
from reward_service.config import LeaveOneOutContribution, MonteCarloContribution, SignalsConfig, TargetSolved
from reward_service.errors import ScorerUnavailable, UnscorableTrajectory
from reward_service.replay.errors import Abandoned, Diverged, NothingToMeasure
from reward_service.replay.leave_one_out import LeaveOneOut
from reward_service.replay.monte_carlo import MonteCarlo
from reward_service.replay.recorded import Recorded, recorded, was_made
from reward_service.replay.world import Pace
from reward_service.replay.worth import Contributions
from reward_service.wire import TrajectoryItem
from tool_sandbox.errors import (
    ForkDiverged,
    IsolationUnavailable,
    LeaseLost,
    SandboxError,
    SandboxFull,
    SandboxUnavailable,
)

REPLAY_VERSION = 1
"""Part of the reward version. Raise it with any change here, or of a policy, that changes a number."""
REPLAYS_AT_ONCE = 4
"""Of one recipe in one process. Tools in process share one interpreter lock; those in a sandbox do not."""


class Method(Protocol):
    """A way to measure contribution by replays; synchronous."""

    def measure(self, recorded: Recorded, pace: Pace) -> Contributions:
        """The contribution of every call that was made; raises `ReplayEnded`."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replays say of a trajectory, one entry for each step."""

    column: Sequence[float | None]
    why: Sequence[str | None]


class Replays:
    """One method, and the threads that it runs on."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._threads = ThreadPoolExecutor(REPLAYS_AT_ONCE, thread_name_prefix="replay")

    async def told(self, item: TrajectoryItem) -> Replayed:
        """The contribution of every step; cancelling ends the replay before its next call.

        Raises:
            UnscorableTrajectory: the task cannot be opened again here, or the method cannot measure it.
            ScorerUnavailable: the sandbox lost a call, or had no room.
        """
        if not any(map(was_made, item.steps)):
            return _replayed(item, {}, None)
        gone = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._measured, item, gone)
        finally:
            gone.set()

    def _measured(self, item: TrajectoryItem, gone: threading.Event) -> Replayed:
        def pace() -> None:
            if gone.is_set():
                raise Abandoned(f"trajectory {item.id!r}: nobody waits for its replay any more")

        try:
            return _replayed(item, self._method.measure(recorded(item), pace), None)
        except (Diverged, ForkDiverged) as error:
            return _replayed(item, {}, f"abstains: {error}")
        except NothingToMeasure as error:
            raise UnscorableTrajectory(item.id, f"contribution by replay: {error}") from error
        except (SandboxFull, SandboxUnavailable, LeaseLost, IsolationUnavailable) as error:
            raise ScorerUnavailable(f"replay: {error}") from error
        except SandboxError as error:
            raise UnscorableTrajectory(item.id, f"its calls cannot be replayed: {error}") from error


def replays_of(signals: SignalsConfig) -> Replays | None:
    """What measures contribution by replays; None where something else does."""
    answers = signals.solved.answer if isinstance(signals.solved, TargetSolved) else NORMALISED
    match signals.contribution:
        case LeaveOneOutContribution():
            return Replays(LeaveOneOut(answers))
        case MonteCarloContribution() as config:
            return Replays(MonteCarlo(config, answers))
        case _:
            return None


def _replayed(item: TrajectoryItem, found: Contributions, otherwise: str | None) -> Replayed:
    """`otherwise`: why a call that was made has no contribution. A turn that ran nothing contributed nothing."""
    column: list[float | None] = []
    why: list[str | None] = []
    for step in item.steps:
        worth = found.get(step.index)
        nothing = 0.0 if step.parse_error is not None else None
        column.append(nothing if worth is None else worth.value)
        why.append(worth.why if worth is not None else otherwise if was_made(step) else None)
    return Replayed(column, why)
