"""The contract of `GET /v1/stats`: what one replica of the service has done, as counts that can be added up.

Owns the frozen types of the answer and the bounds of the latency histogram. `stats` fills them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from reward_service.wire import Message

Outcome = Literal["ok", "data", "infrastructure"]
"""How one trajectory ended: scored, or one of the kinds of `ItemError`."""
OUTCOMES: tuple[Outcome, ...] = ("ok", "data", "infrastructure")
BOUNDS_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
"""Upper bounds of the latency buckets: rules answer below the first, a judge with votes between the last ones."""
SLOT_SECONDS = 5
SLOTS = 60
"""Slots of the recent past, so 5 minutes."""


class JudgeTraffic(Message):
    """What the votes took that a judge cast, of those that this replica asked for or heard of."""

    votes: NonNegativeInt
    """With those that were lost."""
    lost_votes: NonNegativeInt
    requests: NonNegativeInt
    """To the judge's endpoint, that were answered."""
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    cost: NonNegativeFloat
    """In the currency of the recipe's prices; 0 without prices."""


class Traffic(Message):
    """What was asked and answered over some time."""

    requests: dict[str, NonNegativeInt]
    """Answers by HTTP status."""
    trajectories: dict[Outcome, NonNegativeInt]
    steps: NonNegativeInt
    """Of the trajectories that were scored, with those that abstained."""
    abstained_steps: NonNegativeInt
    latency_counts: tuple[NonNegativeInt, ...]
    """Answers by seconds: one count for each bound (at most so long, more than the bound before), one for longer."""
    latency_sum_seconds: NonNegativeFloat
    judge: JudgeTraffic
    p50_seconds: NonNegativeFloat | None
    """Estimated from the buckets; null before the first answer."""
    p99_seconds: NonNegativeFloat | None


class Slot(Message):
    """Five seconds."""

    requests: NonNegativeInt
    trajectories: NonNegativeInt
    steps: NonNegativeInt


class StatsSnapshot(Message):
    """The figures of one replica; those of several add up, but for the percentiles."""

    replica: str
    """A random name of the replica that answers; another one means other counts."""
    uptime_seconds: NonNegativeFloat
    total: Traffic
    """Since the replica started."""
    recent: Traffic
    """Of the time that `slots` covers."""
    slots: tuple[Slot, ...]
    """The last 5 minutes, oldest first; the last one is still filling."""
    slot_seconds: Literal[5] = SLOT_SECONDS
    latency_bounds_seconds: tuple[float, ...] = BOUNDS_SECONDS
