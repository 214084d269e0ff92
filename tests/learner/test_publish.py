"""New weights to every engine, and the canary that stops a run whose engines serve others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from actors.weights import PublishedWeights, flatten
from learner.packing import Demonstration
from learner.publish import CanaryBounds, ObjectStorePublisher, WeightsNotDelivered, logprob_gaps

CANARY = [(11, 12, 13), (21, 22)]
EXACT = CanaryBounds(float32_mean_gap=1e-4, float32_max_gap=1e-3, bfloat16_mean_gap=0.1, dtype="float32")
COARSE = replace(EXACT, dtype="bfloat16")
LEARNER = [(-1.0, -2.0), (-3.0,)]


@dataclass
class Learner:
    """Says the same log-probabilities whenever it is asked."""

    asked: list[Demonstration] = field(default_factory=list)

    def publish_weights(self) -> PublishedWeights:
        manifest, buffer = flatten({"w": torch.ones(4)})
        return PublishedWeights(manifest, buffer, version=-1)

    def log_probs(self, sequences: Sequence[Demonstration]) -> list[tuple[float, ...]]:
        self.asked.extend(sequences)
        return list(LEARNER)


@dataclass
class Engines:
    """One answer for each engine."""

    answers: Mapping[int, Sequence[Sequence[float]]]
    loaded: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def load_weights(self, weights: PublishedWeights, deadline_seconds: float) -> None:
        self.loaded.append(weights.version)

    def token_logprobs(
        self, sequences: Sequence[Sequence[int]], label: str, deadline_seconds: float
    ) -> Mapping[int, Sequence[Sequence[float]]]:
        assert self.loaded, "the canary must not be asked before the weights are there"
        assert [tuple(ids) for ids in sequences] == CANARY
        self.labels.append(label)
        return self.answers


def publisher(*engines: Sequence[Sequence[float]], bounds: CanaryBounds = EXACT) -> ObjectStorePublisher:
    return ObjectStorePublisher(Learner(), Engines(dict(enumerate(engines))), CANARY, bounds)


def test_a_publish_reports_the_worst_engine_and_the_worst_token() -> None:
    learner, engines = Learner(), Engines({0: LEARNER, 1: [(-1.0, -2.00006), (-3.00003,)]})
    report = ObjectStorePublisher(learner, engines, CANARY, EXACT).publish(5)
    assert (report.version, report.byte_count) == (5, 64)
    assert report.mean_gap == pytest.approx(3e-5)
    assert report.max_gap == pytest.approx(6e-5)
    assert engines.loaded == [5]
    assert learner.asked == [
        Demonstration((11, 12, 13), (False, True, True)),
        Demonstration((21, 22), (False, True)),
    ]


def test_each_canary_has_a_label_of_its_own() -> None:
    engines = Engines({0: LEARNER})
    one = ObjectStorePublisher(Learner(), engines, CANARY, EXACT)
    one.publish(1)
    one.publish(2)
    assert len(set(engines.labels)) == 2


def test_one_stale_engine_among_good_ones_stops_the_run_by_name() -> None:
    stale = [(-1.0, -2.5), (-3.0,)]
    message = r"version 5: engine rollout-1 .*largest gap 0\.5 nats, expected at most 0\.001 in float32"
    with pytest.raises(WeightsNotDelivered, match=message):
        publisher(LEARNER, stale, LEARNER).publish(5)


def test_one_improbable_token_that_is_a_little_off_is_no_damage_and_all_tokens_a_little_off_are() -> None:
    """An engine that read the right weights from their file may differ by 1.2e-4 at a token with log p = −17."""
    one_token = [(-1.0, -2.00011), (-3.0,)]
    assert publisher(one_token).publish(7).max_gap == pytest.approx(1.1e-4)
    every_token = [(-1.0002, -2.0002), (-3.0002,)]
    with pytest.raises(WeightsNotDelivered, match=r"mean gap 0\.0002 nats, expected at most 0\.0001 in float32"):
        publisher(every_token).publish(7)


def test_float32_is_judged_by_its_worst_token_too_and_bfloat16_by_the_mean_alone() -> None:
    one_bad_token = [(-1.0, -2.24), (-3.0,)]
    assert publisher(one_bad_token, bounds=COARSE).publish(1).mean_gap == pytest.approx(0.08)
    with pytest.raises(WeightsNotDelivered, match=r"largest gap 0\.24"):
        publisher(one_bad_token, bounds=EXACT).publish(1)
    all_somewhat_off = [(-1.12, -2.12), (-3.12,)]
    with pytest.raises(WeightsNotDelivered, match=r"mean gap 0\.12 nats, expected at most 0\.1 in bfloat16"):
        publisher(all_somewhat_off, bounds=COARSE).publish(1)


@pytest.mark.parametrize("bounds", [EXACT, COARSE])
@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_an_engine_that_is_full_of_nan_does_not_pass_for_a_perfect_one(bounds: CanaryBounds, broken: float) -> None:
    with pytest.raises(WeightsNotDelivered, match="rollout-0"):
        publisher([(-1.0, broken), (-3.0,)], bounds=bounds).publish(1)


def test_a_canary_that_nobody_answers_proves_nothing() -> None:
    with pytest.raises(WeightsNotDelivered, match="version 1: no engine answered"):
        publisher().publish(1)


@pytest.mark.parametrize("found", [[(-1.0, -2.0)], [(-1.0,), (-3.0,)]])
def test_log_probabilities_of_other_sequences_are_never_compared_in_part(found: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="zip"):
        logprob_gaps(LEARNER, found)
