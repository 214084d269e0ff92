"""Turn step rewards into step advantages.

Owns `CreditedTrajectory`, the estimators and their mathematics. Consumes `ScoredTrajectory` and, for step-level GAE,
one value per step. Pure: knows nothing of tokens, tensors or Ray, so the length of an observation cannot touch credit.

An abstained step is taken out before any recursion or statistic: no delta, no decay, no place in a mean. Its advantage
is None. A trajectory that infrastructure cut short has no known return: Monte-Carlo estimators give it no credit at
all, and GAE bootstraps from the value of the state at which it was cut.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from actors.scoring import ScoredTrajectory
from learner.config import CreditConfig, GroupOutcomeConfig, GroupStepConfig, ReinforceConfig, StepGaeConfig
from learner.errors import NoCredit
from tool_sandbox.tasks import StopReason

Credits = tuple[float | None, ...]
Key = TypeVar("Key")

_SAME = 1e-9
"""Values closer than this are the same number."""


@dataclass(frozen=True, slots=True)
class CreditedTrajectory:
    """A scored trajectory and one advantage and one return for each of its steps."""

    scored: ScoredTrajectory
    advantages: Credits
    """None where the step has no credit: it abstained, or its return is unknown."""
    returns: Credits
    """Target of the critic, in units of reward; None where there is none."""

    def __post_init__(self) -> None:
        steps = len(self.scored.trajectory.steps)
        if not len(self.advantages) == len(self.returns) == steps:
            raise ValueError(
                f"trajectory {self.scored.trajectory.id!r}: {len(self.advantages)} advantages and "
                f"{len(self.returns)} returns for {steps} steps; give one of each per step, None for no credit"
            )
        for number in (*self.advantages, *self.returns):
            if number is not None and not math.isfinite(number):
                raise ValueError(
                    f"trajectory {self.scored.trajectory.id!r}: credit {number}; expected finite numbers; "
                    "look at its rewards and at the critic"
                )


@dataclass(frozen=True, slots=True)
class CreditSummary:
    """What a batch's credit looks like; for metrics, and to tell a batch that cannot teach from one that can."""

    trajectories: int
    steps: int
    abstained: int
    zero: int
    """Credited steps whose advantage is exactly zero."""
    groups: int
    uniform_groups: int
    """Groups in which no step has a non-zero advantage."""

    @property
    def is_uniform(self) -> bool:
        """Nothing can be learned from this batch: every group is uniform."""
        return self.uniform_groups == self.groups


def step_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """G_t = r_t + γ·G_{t+1}, with G = 0 after the last step (Sutton & Barto 2018, eq. 3.9).

    Takes and gives one number per step, in units of reward.
    """
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]


def step_gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float, bootstrap: float = 0.0
) -> list[float]:
    """Â_t = δ_t + γλ·Â_{t+1} with δ_t = r_t + γ·V(s_{t+1}) − V(s_t) (Schulman et al. 2016, eq. 16), over steps.

    `rewards` and `values` hold one number per step; `bootstrap` is V of the state after the last one, 0 where the
    episode ended there. Gives one advantage per step, in units of reward.
    """
    if len(rewards) != len(values):
        raise ValueError(f"step_gae: {len(values)} values for {len(rewards)} rewards; read the value once per step")
    advantages: list[float] = []
    following, next_value = 0.0, bootstrap
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        following = reward + gamma * next_value - value + gamma * lam * following
        next_value = value
        advantages.append(following)
    return advantages[::-1]


def mean_std(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))


def whiten(numbers: Sequence[float]) -> list[float]:
    """(x − mean) / std over the whole sequence; all zero where the numbers do not differ."""
    if not numbers:
        return []
    mean, std = mean_std(numbers)
    return [(number - mean) / std if std > _SAME else 0.0 for number in numbers]


def normalise_in_cells(
    numbers: Mapping[tuple[Key, int], Sequence[float]], min_std: float
) -> dict[tuple[Key, int], list[float]]:
    """(x − mean) / max(std, min_std) within each cell (group, step index), as MT-GRPO and GTPO do (arXiv 2511.14846).

    A cell of one has no peers: its own mean would erase it. It is compared with all steps of its group instead.
    """
    pooled: dict[Key, list[float]] = defaultdict(list)
    for (group, _), members in numbers.items():
        pooled[group].extend(members)
    normalised: dict[tuple[Key, int], list[float]] = {}
    for cell, members in numbers.items():
        mean, std = mean_std(members if len(members) > 1 else pooled[cell[0]])
        differs = std > _SAME
        normalised[cell] = [(number - mean) / max(std, min_std) if differs else 0.0 for number in members]
    return normalised


def credited_rewards(scored: ScoredTrajectory) -> tuple[list[int], list[float]]:
    """Indices and rewards of the steps that did not abstain."""
    pairs = [(t, step.value) for t, step in enumerate(scored.reward.steps) if step.value is not None]
    return [t for t, _ in pairs], [reward for _, reward in pairs]


def monte_carlo_returns(scored: ScoredTrajectory, gamma: float) -> Credits:
    """Discounted returns over the steps that did not abstain; all None where infrastructure cut the episode short."""
    if scored.trajectory.stop is StopReason.INFRASTRUCTURE:
        return (None,) * len(scored.reward.steps)
    indices, rewards = credited_rewards(scored)
    return _spread(len(scored.reward.steps), indices, step_returns(rewards, gamma))


def assign_credit(
    scored: Sequence[ScoredTrajectory], values: Sequence[Sequence[float]] | None, config: CreditConfig
) -> list[CreditedTrajectory]:
    """One credited trajectory for each scored one, in order.

    `values` holds V(s_t) of every step, abstained ones included, in units of reward; step-level GAE needs it, the other
    estimators take None. Raises `NoCredit` where rewards differ within a group and yet every advantage is exactly zero;
    a batch whose groups are all uniform passes, and `summarise` says so.
    """
    match config:
        case StepGaeConfig():
            credited = _assign_step_gae(scored, _expect_values(scored, values), config)
        case GroupStepConfig():
            credited = _assign_group_step(scored, config)
        case GroupOutcomeConfig():
            credited = _assign_group_outcome(scored, config)
        case ReinforceConfig():
            credited = _assign_reinforce(scored, config)
    _expect_credit(credited, config)
    return credited


def summarise(credited: Sequence[CreditedTrajectory]) -> CreditSummary:
    """Count the steps and the groups with and without credit."""
    groups: dict[str, bool] = {}
    for one in credited:
        group = one.scored.trajectory.group
        groups[group] = groups.get(group, False) or _teaches(one)
    advantages = [advantage for one in credited for advantage in one.advantages]
    return CreditSummary(
        trajectories=len(credited),
        steps=len(advantages),
        abstained=sum(advantage is None for advantage in advantages),
        zero=sum(advantage == 0.0 for advantage in advantages),
        groups=len(groups),
        uniform_groups=sum(not teaches for teaches in groups.values()),
    )


def _assign_step_gae(
    scored: Sequence[ScoredTrajectory], values: Sequence[Sequence[float]], config: StepGaeConfig
) -> list[CreditedTrajectory]:
    raw = [_gae_of_one(one, value, config) for one, value in zip(scored, values, strict=True)]
    returns = [
        tuple(None if a is None else a + v for a, v in zip(one, value, strict=True))
        for one, value in zip(raw, values, strict=True)
    ]
    return _credited(scored, _whiten_ragged(raw), returns)


def _gae_of_one(scored: ScoredTrajectory, values: Sequence[float], config: StepGaeConfig) -> Credits:
    indices, rewards = credited_rewards(scored)
    kept = [values[t] for t in indices]
    advantages = step_gae(rewards, kept, config.gamma, config.lam, _value_at_cut(scored, indices, values))
    return _spread(len(values), indices, advantages)


def _value_at_cut(scored: ScoredTrajectory, indices: Sequence[int], values: Sequence[float]) -> float:
    """V of the state at which infrastructure cut the episode; 0 where the episode ended by itself."""
    after = indices[-1] + 1 if indices else 0
    cut = scored.trajectory.stop is StopReason.INFRASTRUCTURE and after < len(values)
    return values[after] if cut else 0.0


def _assign_group_step(scored: Sequence[ScoredTrajectory], config: GroupStepConfig) -> list[CreditedTrajectory]:
    returns = [monte_carlo_returns(one, config.gamma) for one in scored]
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one, ragged in zip(scored, returns, strict=True):
        for index, number in enumerate(_present(ragged)):
            cells[one.trajectory.group, index].append(number)
    queues = {cell: iter(members) for cell, members in normalise_in_cells(cells, config.min_std).items()}
    paired = zip(scored, returns, strict=True)
    advantages = [_take_in_order(one.trajectory.group, ragged, queues) for one, ragged in paired]
    return _credited(scored, advantages, returns)


def _take_in_order(group: str, ragged: Credits, queues: Mapping[tuple[str, int], Iterator[float]]) -> Credits:
    """Give each credited step the next number of its cell; cells were filled in this same order."""
    indices = [t for t, number in enumerate(ragged) if number is not None]
    taken = [next(queues[group, position]) for position in range(len(indices))]
    return _spread(len(ragged), indices, taken)


def _assign_group_outcome(scored: Sequence[ScoredTrajectory], config: GroupOutcomeConfig) -> list[CreditedTrajectory]:
    outcomes: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in scored:
        if one.reward.solved is not None:
            outcomes[one.trajectory.group, 0].append(one.reward.solved)
    queues = {cell: iter(members) for cell, members in normalise_in_cells(outcomes, config.min_std).items()}
    advantages: list[Credits] = []
    for one in scored:
        number = None if one.reward.solved is None else next(queues[one.trajectory.group, 0])
        advantages.append(tuple(None if step.abstained else number for step in one.reward.steps))
    returns = [tuple(None if step.abstained else one.reward.solved for step in one.reward.steps) for one in scored]
    return _credited(scored, advantages, returns)


def _assign_reinforce(scored: Sequence[ScoredTrajectory], config: ReinforceConfig) -> list[CreditedTrajectory]:
    returns = [monte_carlo_returns(one, config.gamma) for one in scored]
    return _credited(scored, _whiten_ragged(returns), returns)


def _expect_values(
    scored: Sequence[ScoredTrajectory], values: Sequence[Sequence[float]] | None
) -> Sequence[Sequence[float]]:
    if values is None:
        raise ValueError("step_gae: no values; expected V(s_t) of every step, from the critic of the configuration")
    found, expected = [len(one) for one in values], [len(one.reward.steps) for one in scored]
    if found != expected:
        raise ValueError(f"step_gae: values of lengths {found} for episodes of {expected} steps; read one per step")
    return values


def _expect_credit(credited: Sequence[CreditedTrajectory], config: CreditConfig) -> None:
    if any(_teaches(one) for one in credited):
        return
    seen: dict[str, set[tuple[float | None, ...]]] = defaultdict(set)
    for one in credited:
        if any(advantage is not None for advantage in one.advantages):
            seen[one.scored.trajectory.group].add(_signal(one.scored, config))
    differing = sorted(group for group, signals in seen.items() if len(signals) > 1)
    if differing:
        raise NoCredit(
            f"{config.kind}: rewards differ within {len(differing)} groups (first {differing[0]!r}) and every "
            "advantage is zero; expected at least one step with credit; look at the critic's values and the estimator"
        )


def _signal(scored: ScoredTrajectory, config: CreditConfig) -> tuple[float | None, ...]:
    """What the estimator sees of a trajectory's rewards."""
    if isinstance(config, GroupOutcomeConfig):
        return (scored.reward.solved,)
    return tuple(credited_rewards(scored)[1])


def _teaches(credited: CreditedTrajectory) -> bool:
    return any(advantage not in (None, 0.0) for advantage in credited.advantages)


def _credited(
    scored: Sequence[ScoredTrajectory], advantages: Sequence[Credits], returns: Sequence[Credits]
) -> list[CreditedTrajectory]:
    return [CreditedTrajectory(*row) for row in zip(scored, advantages, returns, strict=True)]


def _whiten_ragged(ragged: Sequence[Credits]) -> list[Credits]:
    white = iter(whiten([number for one in ragged for number in _present(one)]))
    return [tuple(None if number is None else next(white) for number in one) for one in ragged]


def _present(ragged: Credits) -> list[float]:
    return [number for number in ragged if number is not None]


def _spread(length: int, indices: Sequence[int], numbers: Sequence[float]) -> Credits:
    """Put numbers at their indices, None elsewhere."""
    spread: list[float | None] = [None] * length
    for index, number in zip(indices, numbers, strict=True):
        spread[index] = number
    return tuple(spread)
