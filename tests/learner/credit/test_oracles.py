"""Every estimator against its second writing, over random ragged batches."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scoring import ScoredTrajectory
from learner.credit import assign_credit
from tests.learner.builders import ANSWER, CALL, scored, step
from tests.learner.credit import oracle
from tests.learner.credit.estimators import ALL, kind, states
from tool_sandbox.tasks import StopReason


def trajectory(dice: Random, name: str, group: str) -> ScoredTrajectory:
    """Up to four steps of up to three tokens out of two: observations and beginnings meet, as in a group they do."""

    def ids() -> tuple[int, ...]:
        return tuple(dice.randrange(2) for _ in range(dice.randint(1, 3)))

    length = dice.randint(0, 4)
    steps = [step(ids() if t else (9,), ids(), does=dice.choice([CALL, ANSWER])) for t in range(length)]
    rewards = [None if dice.random() < 0.25 else round(dice.uniform(-2, 2), 3) for _ in steps]
    cut = dice.random() < 0.2
    outcome = None if cut else dice.choice([None, 0.0, 0.5, 1.0, 1.0])
    stop = StopReason.INFRASTRUCTURE if cut else StopReason.ANSWERED
    told = [dice.choice([None, -1.0, 0.0, 0.5, 1.0]) for _ in steps]
    return scored(rewards, id=name, group=group, solved=outcome, steps=steps, stop=stop, contributions=told)


def random_batch(dice: Random) -> list[ScoredTrajectory]:
    """One to three groups of one to four trajectories, in any order."""
    sizes = [dice.randint(1, 4) for _ in range(dice.randint(1, 3))]
    made = [trajectory(dice, f"{g}-{k}", f"g-{g}") for g, size in enumerate(sizes) for k in range(size)]
    return dice.sample(made, len(made))


def expected(batch: list[ScoredTrajectory], values: Any, config: Any) -> list[list[list[float] | None]]:
    """By trajectory and step: the numbers of its tokens, or a single one; None without credit."""
    table = oracle.Table(batch, values, config)
    parts_of = oracle.outcome_parts(table)
    found: list[list[list[float] | None]] = [[None] * len(one.trajectory.steps) for one in batch]
    if config.level == "trajectory":
        rows = oracle.raw_by_trajectory(table)
        white = finished(rows, table.groups(), [0] * len(rows), config)
        table_rows = [(white[k] + parts_of[i], i, t) for k, i in enumerate(table.seen) for t in table.kept[i]]
    else:
        parts = oracle.raw_by_token(table) if config.level == "token" else list(oracle.raw_by_step(table))
        parts = [np.atleast_1d(part) for part in parts]
        sizes = [len(part) for part in parts]
        flat = np.concatenate([np.zeros(0), *parts])
        groups = np.repeat(np.array(table.group, dtype=object), sizes)
        places = np.repeat(np.array(table.place, dtype=int), sizes)
        white = np.split(finished(flat, list(groups), list(places), config), np.cumsum(sizes)[:-1])
        there = zip(white, table.rows, strict=True) if parts else ()
        table_rows = [(part + parts_of[i], i, t) for part, (i, t) in there]
    for numbers, i, t in table_rows:
        row = np.clip(np.atleast_1d(numbers), -(config.clip or np.inf), config.clip or np.inf)
        found[i][t] = None if np.isnan(row).any() else list(row)
    return without_uniform_groups(batch, found)


def finished(x: Any, groups: list[str], places: list[int], config: Any) -> Any:
    if not config.relative or not len(x):
        return oracle.whiten(x, groups, places, config.whiten)
    x = np.where(np.abs(x) < 1e-9, 0.0, x)
    loud = np.array([np.nansum(np.abs(x[[g == own for g in groups]])) > 0 for own in groups])
    white = oracle.whiten(np.where(loud, x, np.nan), groups, places, config.whiten)
    return np.where(loud, white, x)


def without_uniform_groups(batch: list[ScoredTrajectory], found: Any) -> Any:
    groups = [one.trajectory.group for one in batch]
    loud = {g for g, own in zip(groups, found, strict=True) for n in own if n is not None and any(n)}
    return [own if g in loud else [None] * len(own) for g, own in zip(groups, found, strict=True)]


WHITENINGS = ["none", "steps", "group", "batch"]
RANGES = {
    **dict.fromkeys(("gamma", "lam", "token_gamma", "token_lam"), (0.1, 1.0)),
    **dict.fromkeys(("min_std", "outcome_min_std"), (0.0, 1.0)),
    **dict.fromkeys(("step_weight", "turn_weight"), (0.1, 2.0)),
}
"""Settings that are numbers, and from where they are drawn."""


def random_settings(dice: Random, config: Any) -> Any:
    """Any setting that decides a number, with any whitening; the outcome's part and the clip in half of the draws."""
    if config.kind == "eto":
        return config
    whiten: dict[str, Any] = {"kind": "none" if config.kind == "rft" else dice.choice(WHITENINGS)}
    if whiten["kind"] != "none":
        whiten["min_std"] = dice.uniform(0.0, 1.0)
    chosen: dict[str, Any] = {
        name: dice.uniform(*ends) for name, ends in RANGES.items() if name in type(config).model_fields
    }
    chosen["outcome_weight"] = dice.choice([0.0, dice.uniform(0.1, 2.0)])
    chosen["clip"] = dice.choice([None, dice.uniform(0.05, 1.5)])
    if hasattr(config, "similarity"):
        chosen["similarity"] = dice.choice([0.5, 0.6, 0.7, 0.8, 0.95, 1.0])
    return type(config)(whiten=whiten, **chosen)


def test_every_setting_of_an_estimator_that_is_a_number_is_drawn() -> None:
    """A new one would otherwise never be varied."""
    others = {"kind", "whiten", "clip", "outcome_weight", "similarity", "uniform", "critic", "continuations", "beta"}
    assert {name for config in ALL for name in type(config).model_fields} == others | set(RANGES)


@pytest.mark.parametrize("config", ALL, ids=kind)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_estimator_agrees_with_its_second_writing(config: Any, seed: int) -> None:
    dice = Random(seed)
    batch, config = random_batch(dice), random_settings(dice, config)
    values = None
    if config.states is not None:
        values = [[dice.uniform(-1, 1) for _ in range(states(one, config))] for one in batch]
    wanted = expected(batch, values, config)
    for one, rows in zip(assign_credit(batch, values, config), wanted, strict=True):
        mine = one.advantages if one.tokens is None else one.tokens.advantages
        assert [numbers is None for numbers in mine] == [numbers is None for numbers in rows]
        pairs = [
            (np.atleast_1d(np.asarray(a, dtype=np.float64)), b)
            for a, b in zip(mine, rows, strict=True)
            if b is not None
        ]
        for found, numbers in pairs:
            assert list(found) == pytest.approx(numbers, abs=1e-6)
