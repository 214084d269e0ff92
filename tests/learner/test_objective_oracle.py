"""The objective against plain loops that share no code with it: losses and gradients of random ragged batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.objective.config import LossConfig
from learner.objective.row import RowCredit
from tests.learner.rows import Lengths, loss_of, row, scale_of

LEVELS = ("token", "step", "trajectory")
SURROGATES = [{"kind": kind, "level": level} for kind in ("ppo_clip", "dual_clip", "cispo") for level in LEVELS]
SURROGATES += [{"kind": "gspo", "level": level, "clip_low": 0.1, "clip_high": 0.15} for level in LEVELS[1:]]
CORRECTIONS = [{"kind": kind, "level": level} for kind in ("tis", "masked", "icepop") for level in LEVELS]
BOUNDS = {"ppo_clip": (0.8, 1.28), "dual_clip": (0.8, 1.28), "cispo": (0.0, 5.0), "gspo": (0.9, 1.15)}


@dataclass(frozen=True)
class Batch:
    """Trajectories of steps of tokens; a token is (behaviour, old, now), a step has one advantage."""

    tokens: list[list[list[tuple[float, float, float]]]]
    advantages: list[list[float]]

    @property
    def lengths(self) -> Lengths:
        return [[len(step) for step in trajectory] for trajectory in self.tokens]

    def column(self, index: int) -> list[float]:
        return [token[index] for trajectory in self.tokens for step in trajectory for token in step]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    gap, level = st.floats(-0.6, 0.6), st.floats(-4.0, -0.7)
    token = st.tuples(level, gap, gap).map(lambda t: (t[0], t[0] + t[1], t[0] + t[1] + t[2]))
    step = st.lists(token, min_size=1, max_size=3)
    tokens = draw(st.lists(st.lists(step, min_size=1, max_size=3), min_size=1, max_size=3))
    return Batch(tokens, [[draw(st.floats(-2.0, 2.0)) for _ in trajectory] for trajectory in tokens])


def unit_of(trajectory: list[list[tuple[float, float, float]]], t: int, i: int, level: str) -> list[Any]:
    if level == "token":
        return [trajectory[t][i]]
    return list(trajectory[t]) if level == "step" else [token for step in trajectory for token in step]


def weight_of(unit: list[Any], correction: dict[str, Any]) -> float:
    raw = math.prod(math.exp(old) / math.exp(behaviour) for behaviour, old, _ in unit)
    match correction["kind"]:
        case "tis":
            return min(raw, 2.0)
        case "masked":
            return raw if raw <= 2.0 else 0.0
        case "icepop":
            return raw if 0.5 <= raw <= 5.0 else 0.0
    return 1.0


def token_objective(unit: list[Any], now: float, advantage: float, chosen: dict[str, Any]) -> tuple[float, float]:
    """Value and derivative by this token's log-probability."""
    ratio = math.prod(math.exp(n) / math.exp(old) for _, old, n in unit)
    if chosen["kind"] == "gspo":
        ratio **= 1.0 / len(unit)
    low, high = BOUNDS[chosen["kind"]]
    held = min(max(ratio, low), high)
    if chosen["kind"] == "cispo":
        return held * advantage * now, held * advantage
    open_side = min(ratio, 5.0) if chosen["kind"] == "dual_clip" else ratio
    value = min(open_side * advantage, held * advantage)
    free = value == open_side * advantage and open_side == ratio
    return value, ratio * advantage if free or ratio == held else 0.0


def oracle(batch: Batch, surrogate: dict[str, Any], correction: dict[str, Any], mean: str) -> tuple[float, list[float]]:
    loss, gradient = 0.0, []
    n_tokens = sum(len(step) for trajectory in batch.tokens for step in trajectory)
    n_steps = sum(len(trajectory) for trajectory in batch.tokens)
    for k, trajectory in enumerate(batch.tokens):
        for t, step in enumerate(trajectory):
            share = {
                "token_mean": 1.0 / n_tokens,
                "step_mean": 1.0 / (len(step) * n_steps),
                "trajectory_mean": 1.0 / (sum(map(len, trajectory)) * len(batch.tokens)),
            }[mean]
            for i, token in enumerate(step):
                unit = unit_of(trajectory, t, i, surrogate["level"])
                value, slope = token_objective(unit, token[2], batch.advantages[k][t], surrogate)
                weight = weight_of(unit_of(trajectory, t, i, correction.get("level", "token")), correction)
                loss -= share * weight * value
                gradient.append(-share * weight * slope)
    return loss, gradient


def exact(credit: RowCredit) -> RowCredit:
    """The same in float64."""
    named = {field.name: getattr(credit, field.name) for field in fields(credit)}
    return replace(credit, **{name: t.double() for name, t in named.items() if t is not None and t.is_floating_point()})


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda one: f"{one['kind']}-{one['level']}")
@settings(max_examples=25)
@given(batch=batches(), data=st.data())
def test_loss_and_gradient_are_those_of_plain_loops(
    surrogate: dict[str, Any], batch: Batch, data: st.DataObject
) -> None:
    coarse_enough = [one for one in CORRECTIONS if LEVELS.index(one["level"]) >= LEVELS.index(surrogate["level"])]
    correction = data.draw(st.sampled_from([{"kind": "none"}, *coarse_enough]))
    mean = data.draw(st.sampled_from(["token_mean", "step_mean", "trajectory_mean"]))
    config = LossConfig.model_validate({"surrogate": surrogate, "correction": correction, "aggregation": mean})
    spread = [
        a
        for steps, n in zip(batch.advantages, batch.lengths, strict=True)
        for a, m in zip(steps, n, strict=True)
        for _ in range(m)
    ]
    credit = row(batch.lengths, batch.column(0), spread)
    old = torch.tensor(batch.column(1), dtype=torch.float64)
    credit = replace(
        exact(credit),
        behaviour=torch.tensor(batch.column(0), dtype=torch.float64),
        old=old,
        advantages=torch.tensor(spread, dtype=torch.float64),
    )
    logprobs = torch.tensor(batch.column(2), dtype=torch.float64, requires_grad=True)
    loss_of(logprobs, credit, scale_of(batch.lengths), config).loss.backward()
    expected_loss, expected_gradient = oracle(batch, surrogate, correction, mean)
    with torch.no_grad():
        found = loss_of(logprobs, credit, scale_of(batch.lengths), config).stats.loss
    assert found == pytest.approx(expected_loss, rel=1e-9, abs=1e-12)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(expected_gradient, rel=1e-9, abs=1e-12)
