"""Every estimator a second time, written with matrices where the house recurs, and with masks where it groups.

A batch is flattened to a table with one row a step that did not abstain, or one a token; whoever is compared with whom
is a Boolean matrix over the rows. Consumes scored trajectories and values as `assign_credit` does; gives advantages by
trajectory and step, a list of numbers each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer
from tool_sandbox.tasks import StopReason

Array = NDArray[np.float64]


def discounts(n: int, factor: float) -> Array:
    """D[t, k] = factor^(k − t) for k ≥ t, else 0."""
    lag = np.arange(n)[None, :] - np.arange(n)[:, None]
    return np.where(lag >= 0, float(factor) ** np.maximum(lag, 0), 0.0)


def gae(rewards: Array, values: Array, gamma: float, lam: float, after: float) -> Array:
    """Â = D(γλ)·(r + γ·shift(V) − V)."""
    shifted = np.append(values, after)[1:]
    return discounts(len(rewards), gamma * lam) @ (rewards + gamma * shifted - values)


def normalised(x: Array, same: NDArray[np.bool_], floor: float) -> Array:
    """(x − S·x/n) / max(std, floor), where S says which rows are compared with which."""
    n = same.sum(axis=1)
    mean = same @ x / n
    variance = np.array([((x[row] - m) ** 2).sum() for row, m in zip(same, mean, strict=True)]) / n
    std = np.sqrt(variance)
    return np.where(std > 1e-9, (x - mean) / np.where(std > 1e-9, np.maximum(std, floor), 1.0), 0.0)


def equal(keys: Sequence[Any]) -> NDArray[np.bool_]:
    """E[i, j]: whether i and j have the same key."""
    return np.array([[a == b for b in keys] for a in keys], dtype=bool).reshape(len(keys), len(keys))


class Table:
    """The rows that an estimator sees of a batch."""

    def __init__(self, scored: Sequence[ScoredTrajectory], values: Any, config: Any) -> None:
        self.scored, self.config, self.values = scored, config, values
        self.kept = [[t for t, r in enumerate(one.reward.steps) if r.value is not None] for one in scored]
        self.cut = [one.trajectory.stop is StopReason.INFRASTRUCTURE for one in scored]
        self.seen = [i for i in range(len(scored)) if self._is_seen(i)]
        self.rows = [(i, t) for i in self.seen for t in self.kept[i]]
        self.group = [scored[i].trajectory.group for i, _ in self.rows]
        self.place = [t for _, t in self.rows]

    def _is_seen(self, i: int) -> bool:
        kind, one = self.config.kind, self.scored[i]
        if kind in ("grpo", "rloo", "reinforce_pp", "rft", "eto"):
            return one.reward.solved is not None and bool(one.trajectory.steps)
        if kind == "mt_grpo" and one.reward.solved is None:
            return False
        if kind == "ppo_outcome" and one.reward.solved is None and not self.cut[i]:
            return False
        if not self.kept[i] or kind == "leave_one_out" or not self.cut[i]:
            return bool(self.kept[i])
        # Cut: a value of the state after the last step has to be there.
        return self.values is not None and self.kept[i][-1] + 1 < len(one.trajectory.steps)

    def length(self, i: int) -> int:
        """Steps of the trajectory, abstained ones included."""
        return len(self.scored[i].trajectory.steps)

    def rewards(self, i: int) -> Array:
        return np.array([self.scored[i].reward.steps[t].value for t in self.kept[i]], dtype=float)

    def outcomes(self) -> Array:
        return np.array([self.scored[i].reward.solved for i in self.seen], dtype=float)

    def returns(self) -> Array:
        parts = [discounts(len(self.kept[i]), self.config.gamma) @ self.rewards(i) for i in self.seen]
        return np.concatenate([np.zeros(0), *parts])

    def totals(self, gamma: float) -> Array:
        return np.array([self.rewards(i) @ gamma ** np.arange(len(self.kept[i])) for i in self.seen])

    def groups(self) -> list[str]:
        return [self.scored[i].trajectory.group for i in self.seen]

    def at(self, per_trajectory: Array) -> Array:
        """One number a row from one a trajectory."""
        return np.array([per_trajectory[self.seen.index(i)] for i, _ in self.rows], dtype=float)

    def after(self, i: int) -> float:
        following = self.kept[i][-1] + 1
        if not self.cut[i] or following >= len(self.scored[i].trajectory.steps):
            return 0.0
        return self.read(i)[following][0]

    def read(self, i: int) -> list[list[float]]:
        """Values by step."""
        steps = self.scored[i].trajectory.steps
        by_token = self.config.kind in ("token_gae_masked", "bilevel_gae", "ppo_outcome")
        each = 2 if self.config.kind == "archer" else 1
        sizes = [len(s.action_ids) if by_token else each for s in steps]
        return [list(part) for part in np.split(np.array(self.values[i], dtype=float), np.cumsum(sizes)[:-1])]


def raw_by_step(table: Table) -> Array:
    """One number a row, before whitening."""
    config, kind = table.config, table.config.kind
    if kind in ("step_gae", "monte_carlo"):
        lam = 0.0 if kind == "monte_carlo" else config.lam
        parts = [
            gae(
                table.rewards(i),
                np.array([table.read(i)[t][0] for t in table.kept[i]]),
                config.gamma,
                lam,
                table.after(i),
            )
            for i in table.seen
        ]
        return np.concatenate([np.zeros(0), *parts])
    if kind == "archer":
        v, q = np.array([table.read(i)[t] for i, t in table.rows]).reshape(-1, 2).T
        return q - v
    if kind in ("step_returns", "step_reinforce_pp"):
        return table.returns()
    if kind == "step_rloo":
        return _step_rloo(table)
    if kind == "gigpo":
        seen = [table.scored[i].trajectory.steps[t].prompt_ids for i, t in table.rows]
        states = _seen_alike(table.group, seen, config.similarity)
        episode = normalised(table.totals(1.0), equal(table.groups()), config.min_std)
        return table.at(episode) + config.step_weight * normalised(table.returns(), states, config.min_std)
    if kind == "mt_grpo":
        return _mt_grpo(table)
    if kind == "tree":
        return _tree(table)
    assert kind == "leave_one_out"
    return np.array([_worth(table, i, t) for i, t in table.rows], dtype=float)


def _step_rloo(table: Table) -> Array:
    x, trajectory = table.returns(), [i for i, _ in table.rows]
    group, other = equal(table.group), ~equal(trajectory)
    column = group & other & equal(table.place)
    peers = np.where(column.any(axis=1, keepdims=True), column, group & other)
    n = peers.sum(axis=1)
    return np.where(n > 0, x - peers @ x / np.maximum(n, 1), 0.0)


def _seen_alike(groups: list[str], seen: list[tuple[int, ...]], least: float) -> NDArray[np.bool_]:
    """S[i, j]: j saw what i saw or, where only i saw that, something near to it."""
    group = equal(groups)
    same = group & equal(seen)
    near = np.array([[max(in_common(a, b), in_common(b, a)) >= least for b in seen] for a in seen], dtype=bool)
    alone = same.sum(axis=1, keepdims=True) == 1
    return np.where(alone, group & near.reshape(same.shape), same)


def in_common(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """2·M / (length of both), M the tokens in the longest block in common and, anew, in what is left and right of it.

    (Ratcliff & Metzener 1988.) Of equally long blocks the first counts, in `one` before `other`.
    """
    return 2.0 * _matching(one, other) / (len(one) + len(other))


def _matching(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    blocks = [
        (-size, i, j)
        for i in range(len(one))
        for j in range(len(other))
        for size in range(1, min(len(one) - i, len(other) - j) + 1)
        if one[i : i + size] == other[j : j + size]
    ]
    if not blocks:
        return 0
    negative, i, j = min(blocks)
    size = -negative
    return size + _matching(one[:i], other[:j]) + _matching(one[i + size :], other[j + size :])


def _mt_grpo(table: Table) -> Array:
    config = table.config
    base = table.at(normalised(table.outcomes(), equal(table.groups()), config.min_std))
    own = np.concatenate([np.zeros(0), *(table.rewards(i) for i in table.seen)])
    last = np.array([t == table.length(i) - 1 for i, t in table.rows], dtype=bool)
    cells = equal(list(zip(table.group, table.place, strict=True))) & ~last[None, :] & ~last[:, None]
    turns = normalised(own, cells | np.eye(len(own), dtype=bool), config.min_std)
    return base + config.turn_weight * np.where(last, 0.0, turns)


def _tree(table: Table) -> Array:
    totals, groups = table.totals(table.config.gamma), table.groups()
    first = [table.scored[i].trajectory.steps[0] for i in table.seen]
    roots = [(g, s.prompt_ids, s.action_ids) for g, s in zip(groups, first, strict=True)]
    floor = table.config.min_std
    leaves = normalised(totals, equal(roots), floor) + normalised(totals, equal(groups), floor)
    paths = [
        (g, [(s.prompt_ids, s.action_ids) for s in table.scored[i].trajectory.steps[: t + 1]])
        for g, (i, t) in zip(table.group, table.rows, strict=True)
    ]
    flat = [(g, tuple(token for part in path for ids in part for token in ids)) for g, path in paths]
    shared = equal(flat)
    return shared @ table.at(leaves) / shared.sum(axis=1)


def _worth(table: Table, i: int, t: int) -> float:
    one = table.scored[i]
    answers = isinstance(one.trajectory.steps[t].action, Answer)
    if t == table.length(i) - 1 and answers and not table.cut[i]:
        return np.nan if one.reward.solved is None else one.reward.solved
    told = one.reward.steps[t].signals["contribution"]
    return np.nan if told is None else told


def raw_by_token(table: Table) -> list[Array]:
    """One array a row."""
    config, found = table.config, []
    for i in table.seen:
        values = [np.array(table.read(i)[t]) for t in table.kept[i]]
        rewards = table.rewards(i)
        if config.kind == "ppo_outcome":
            rewards = np.zeros(len(rewards))
            rewards[-1] = table.scored[i].reward.solved or 0.0
        if config.kind == "bilevel_gae":
            last = np.array([v[-1] for v in values])
            back = gae(rewards, last, config.gamma, config.lam, table.after(i)) + last
            for value, reward in zip(values, back, strict=True):
                at_end = np.append(np.zeros(len(value) - 1), reward)
                found.append(gae(at_end, value, config.token_gamma, config.token_lam, 0.0))
            continue
        placed = [np.append(np.zeros(len(v) - 1), r) for v, r in zip(values, rewards, strict=True)]
        whole = gae(np.concatenate(placed), np.concatenate(values), config.gamma, config.lam, table.after(i))
        found += np.split(whole, np.cumsum([len(v) for v in values])[:-1])
    return found


def raw_by_trajectory(table: Table) -> Array:
    """One number a trajectory."""
    o, same = table.outcomes(), equal(table.groups())
    if table.config.kind == "rft":
        return np.where(o >= 1.0, 1.0, np.nan)
    if table.config.kind == "eto":
        return _wins_less_losses(table, o, same)
    if table.config.kind != "rloo":
        return o
    others = same & ~np.eye(len(o), dtype=bool)
    n = others.sum(axis=1)
    return np.where(n > 0, o - others @ o / np.maximum(n, 1), 0.0)


def _wins_less_losses(table: Table, o: Array, same: NDArray[np.bool_]) -> Array:
    """W[i, j]: i is preferred to j. The n-th worse one of a group meets its best one number n modulo their number."""
    wins = np.zeros(same.shape)
    there = np.array([bool(table.kept[i]) for i in table.seen], dtype=bool)
    for row in same & there & there[:, None]:
        members = np.flatnonzero(row)
        best = [i for i in members if o[i] == o[members].max()]
        for n, j in enumerate(j for j in members if o[j] < o[members].max()):
            wins[best[n % len(best)], j] = 1.0
    compared = (wins + wins.T).any(axis=1)
    return np.where(compared, wins.sum(axis=1) - wins.sum(axis=0), np.nan)


def outcome_parts(table: Table) -> dict[int, float]:
    """By trajectory ω·(o − mean)/std over those of its group whose outcome is known; 0 for the others."""
    known = [i for i in table.seen if table.scored[i].reward.solved is not None]
    o = np.array([table.scored[i].reward.solved for i in known], dtype=float)
    same = equal([table.scored[i].trajectory.group for i in known])
    parts = table.config.outcome_weight * normalised(o, same, table.config.outcome_min_std)
    return dict.fromkeys(table.seen, 0.0) | dict(zip(known, parts.tolist(), strict=True))


def whiten(x: Array, groups: Sequence[str], places: Sequence[int], whitening: Any) -> Array:
    """The setting `whiten`; NaN, which stands for no credit, is nobody's peer."""
    if whitening.kind == "none" or not len(x):
        return x
    there = np.flatnonzero(~np.isnan(x))
    group = equal([groups[j] for j in there])
    peers = {"batch": np.ones_like(group), "group": group}.get(whitening.kind)
    if peers is None:
        column = group & equal([places[j] for j in there])
        peers = np.where(column.sum(axis=1, keepdims=True) > 1, column, group)
    found = x.copy()
    if len(there):
        found[there] = normalised(x[there], peers, whitening.min_std)
    return found
