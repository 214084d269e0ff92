"""New weights to every engine, and the proof that they arrived.

Owns the `WeightPublisher` protocol, the publisher by way of Ray's object store, and the canary. After each publish the
engines and the learner say how likely the same tokens are; if they disagree the run stops, since everything sampled
from then on would be credited to the wrong policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.weights import PublishedWeights
from learner.errors import LearnerError
from learner.packing import Demonstration


class WeightsNotDelivered(LearnerError):
    """An engine serves other weights than the learner published."""


class WeightOrigin(Protocol):
    """What a publisher needs of the learner."""

    def publish_weights(self) -> PublishedWeights:
        """The current weights in Ray's object store; their `version` is set by the publisher."""
        ...

    def log_probs(self, sequences: Sequence[Demonstration]) -> list[tuple[float, ...]]: ...


class WeightDestination(Protocol):
    """What a publisher needs of the engines."""

    def load_weights(self, weights: PublishedWeights, deadline_seconds: float) -> None: ...

    def token_logprobs(
        self, sequences: Sequence[Sequence[int]], label: str, deadline_seconds: float
    ) -> Mapping[int, Sequence[Sequence[float]]]: ...


@dataclass(frozen=True, slots=True)
class CanaryBounds:
    """How far learner and engine may differ, by the precision of the engine."""

    float32_mean_gap: float
    """Nats, mean over the tokens of all sequences."""
    float32_max_gap: float
    """Nats, of any token."""
    bfloat16_mean_gap: float
    """Nats, mean over the tokens of all sequences."""
    dtype: str

    def limits(self) -> dict[str, float]:
        """What is judged: the mean, and in float32 also the largest."""
        if self.dtype == "float32":
            return {"largest": self.float32_max_gap, "mean": self.float32_mean_gap}
        return {"mean": self.bfloat16_mean_gap}


@dataclass(frozen=True, slots=True)
class PublishReport:
    """One publish."""

    version: int
    byte_count: int
    load_seconds: float
    """From the learner's weights to every engine serving them."""
    canary_seconds: float
    mean_gap: float
    """Nats; the worst engine's mean |Δ log p|."""
    max_gap: float
    """Nats; the worst token's |Δ log p|."""


class WeightPublisher(Protocol):
    """Delivers the learner's weights to the engines."""

    def publish(self, version: int) -> PublishReport: ...


class ObjectStorePublisher:
    """Through Ray's object store and shared memory: no GPU, no rendezvous, any number of engines."""

    def __init__(
        self,
        learner: WeightOrigin,
        engines: WeightDestination,
        canary: Sequence[tuple[int, ...]],
        bounds: CanaryBounds,
        deadline_seconds: float = 300.0,
    ) -> None:
        """`canary` holds the token sequences that are compared after each publish."""
        self._learner = learner
        self._engines = engines
        self._canary = [tuple(ids) for ids in canary]
        self._bounds = bounds
        self._deadline = deadline_seconds

    def publish(self, version: int) -> PublishReport:
        """Deliver and verify.

        Raises:
            WeightsNotDelivered: an engine's log-probabilities are not the learner's; says which and by how much.
        """
        began = time.monotonic()
        put = self._learner.publish_weights()
        weights = PublishedWeights(put.manifest, put.reference, version)
        self._engines.load_weights(weights, self._deadline)
        loaded = time.monotonic()
        mean_gap, max_gap = self._verify(version)
        return PublishReport(
            version, weights.manifest.byte_count, loaded - began, time.monotonic() - loaded, mean_gap, max_gap
        )

    def _verify(self, version: int) -> tuple[float, float]:
        expected = self._learner.log_probs([_all_but_first(ids) for ids in self._canary])
        found = self._engines.token_logprobs(self._canary, f"canary-{version}", self._deadline)
        if not found:
            raise WeightsNotDelivered(f"weights version {version}: no engine answered for the canary tokens")
        worst = (0.0, 0.0)
        for engine, logprobs in found.items():
            gaps = logprob_gaps(expected, logprobs)
            mean_gap, max_gap = sum(gaps) / len(gaps), max(gaps)
            self._judge(version, engine, mean_gap, max_gap)
            worst = max(worst[0], mean_gap), max(worst[1], max_gap)
        return worst

    def _judge(self, version: int, engine: int, mean_gap: float, max_gap: float) -> None:
        gaps = {"largest": max_gap, "mean": mean_gap}
        for kind, limit in self._bounds.limits().items():
            if not gaps[kind] <= limit:
                raise WeightsNotDelivered(
                    f"weights version {version}: engine rollout-{engine} gives the canary tokens other probabilities "
                    f"than the learner: {kind} gap {gaps[kind]:.3g} nats, expected at most {limit:.3g} in "
                    f"{self._bounds.dtype} (mean {mean_gap:.3g}, largest {max_gap:.3g}). The engine serves old or "
                    "damaged weights; the run stops because its samples would be credited to the wrong policy"
                )


def logprob_gaps(expected: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> list[float]:
    """|Δ log p| of every token, in nats; infinite where either is not a number.

    A sequence of another length is an error, never compared in part.
    """
    pairs = ((e, f) for es, fs in zip(expected, found, strict=True) for e, f in zip(es, fs, strict=True))
    return [_gap(e, f) for e, f in pairs]


def _gap(expected: float, found: float) -> float:
    # `max` passes over NaN unless it comes first: an engine full of NaN would look like a perfect one.
    gap = abs(expected - found)
    return math.inf if math.isnan(gap) else gap


def _all_but_first(token_ids: Sequence[int]) -> Demonstration:
    """Every token but the first has a predecessor to be predicted from."""
    return Demonstration(tuple(token_ids), (False, *(True for _ in token_ids[1:])))
