"""Bringing lost rollout actors back while the others play on.

Owns `Revivals`. Ray restarts a dead actor's process; what comes after, its engine and the newest weights, is begun here
and looked at from time to time, never waited for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from actors.errors import EngineFailure
from actors.weights import PublishedWeights
from tool_sandbox.ray_failures import ACTOR_LOST

_FETCH_SECONDS = 60.0
"""For a result that is known to be there."""


MAX_FAILURES = 3
"""An actor whose engine failed so often in a row while it came back is given up."""


@dataclass(slots=True)
class _Return:
    actor: Any
    pending: Any
    """Reference of the call under way: first `start`, then `load_weights`."""
    deadline: float
    loaded: int | None = None
    """Version that `pending` loads; None while it starts."""


class Revivals:
    """Actors on their way back, by index."""

    def __init__(self, start_seconds: float) -> None:
        """`start_seconds` bounds each of the two calls; who takes longer is begun anew."""
        self._start_seconds = start_seconds
        self._returning: dict[int, _Return] = {}
        self._failures: dict[int, int] = {}

    def is_given_up(self, index: int) -> bool:
        """Whether another attempt would be of no use."""
        return self._failures.get(index, 0) >= MAX_FAILURES

    def begin(self, index: int, actor: Any) -> None:
        """Start an actor's engine, unless that is under way or of no use."""
        if index not in self._returning and not self.is_given_up(index):
            self._returning[index] = _Return(actor, actor.start.remote(), self._deadline())

    def poll(self, weights: PublishedWeights | None, wait_seconds: float) -> list[int]:
        """Who is back, with the newest weights; waits at most so long for the first."""
        pending = [one.pending for one in self._returning.values()]
        if not pending:
            return []
        ready = set(ray.wait(pending, num_returns=len(pending), timeout=wait_seconds)[0])
        back: list[int] = []
        for index, one in list(self._returning.items()):
            if one.pending in ready:
                self._go_on(index, one, weights, back)
            elif time.monotonic() > one.deadline:
                self._again(index, one)
        return back

    def _go_on(self, index: int, one: _Return, weights: PublishedWeights | None, back: list[int]) -> None:
        try:
            ray.get(one.pending, timeout=_FETCH_SECONDS)
        except ACTOR_LOST:
            del self._returning[index]
        except RayTaskError as error:
            if not isinstance(error.cause, EngineFailure):
                raise error.cause from error
            self._again(index, one)
        else:
            if weights is None or one.loaded == weights.version:
                del self._returning[index]
                self._failures.pop(index, None)
                back.append(index)
            else:
                one.pending = one.actor.load_weights.remote(**load_arguments(weights))
                one.loaded, one.deadline = weights.version, self._deadline()

    def _again(self, index: int, one: _Return) -> None:
        """Its engine hangs or died: a new process is the only cure."""
        ray.kill(one.actor, no_restart=False)
        del self._returning[index]
        self._failures[index] = self._failures.get(index, 0) + 1

    def _deadline(self) -> float:
        return time.monotonic() + self._start_seconds


def load_arguments(weights: PublishedWeights) -> dict[str, Any]:
    """Of `RolloutActor.load_weights`."""
    return {"manifest": weights.manifest, "reference": [weights.reference], "version": weights.version}
