"""Turn step rewards into step advantages, by whichever estimator the configuration names.

Owns `assign_credit`. Consumes scored trajectories and, for estimators with a critic, its readings; produces credited
trajectories. Pure: knows nothing of tensors or Ray, and of tokens only what an estimator over tokens asks for.

    keep the steps that did not abstain ─▶ estimate ─▶ whiten, mix in the outcome, clip ─▶ filter uniform groups
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from actors.scoring import ScoredTrajectory
from learner.credit import (
    archer,
    bilevel_gae,
    eto,
    gigpo,
    grpo,
    leave_one_out,
    monte_carlo,
    mt_grpo,
    ppo_outcome,
    reinforce_pp,
    rft,
    rloo,
    step_gae,
    step_reinforce_pp,
    step_returns,
    step_rloo,
    token_gae_masked,
    tree,
)
from learner.credit import config as kinds
from learner.credit.config import CreditConfig
from learner.credit.credited import CreditedTrajectory, Credits, Numbers, TokenCredit, TokenCredits
from learner.credit.estimate import Estimate
from learner.credit.finishing import Units, finished, uniform
from learner.credit.kept import KeptSteps, Readings, keep, read_by_step
from learner.credit.normalising import SAME
from learner.errors import NoCredit

ESTIMATORS: Mapping[type[Any], Callable[[Sequence[KeptSteps], Any], list[Estimate]]] = {
    kinds.StepGaeConfig: step_gae.estimate,
    kinds.TokenGaeConfig: token_gae_masked.estimate,
    kinds.BilevelGaeConfig: bilevel_gae.estimate,
    kinds.StepReturnsConfig: step_returns.estimate,
    kinds.StepRlooConfig: step_rloo.estimate,
    kinds.StepReinforcePpConfig: step_reinforce_pp.estimate,
    kinds.GigpoConfig: gigpo.estimate,
    kinds.MtGrpoConfig: mt_grpo.estimate,
    kinds.TreeConfig: tree.estimate,
    kinds.MonteCarloConfig: monte_carlo.estimate,
    kinds.LeaveOneOutConfig: leave_one_out.estimate,
    kinds.PpoOutcomeConfig: ppo_outcome.estimate,
    kinds.GrpoConfig: grpo.estimate,
    kinds.RlooConfig: rloo.estimate,
    kinds.ReinforcePpConfig: reinforce_pp.estimate,
    kinds.RftConfig: rft.estimate,
    kinds.EtoConfig: eto.estimate,
    kinds.ArcherConfig: archer.estimate,
}


def assign_credit(
    scored: Sequence[ScoredTrajectory], values: Readings | None, config: CreditConfig
) -> list[CreditedTrajectory]:
    """One credited trajectory for each scored one, in order.

    `values` holds V of every state of each trajectory (`config.states`), abstained steps included, in units of reward;
    None where the estimator reads none. Raises `NoCredit` where what the estimator sees differs within a group and yet
    every advantage is exactly zero; a batch whose groups are all uniform passes, and `summarise` says so.
    """
    batch = _kept(scored, values, config)
    shown = [i for i, one in enumerate(batch) if is_shown(one, config)]
    visible = [batch[i] for i in shown]
    estimates = ESTIMATORS[type(config)](visible, config)
    units = finished(visible, [one.advantages for one in estimates], config)
    # A trajectory without a kept step has a part in the statistics, and nothing that could be taught.
    units = [own if one.indices else (None,) * len(own) for one, own in zip(visible, units, strict=True)]
    _expect_credit(visible, estimates, units, config)
    credited = dict(zip(shown, _rows(visible, estimates, units, config), strict=True))
    return [credited.get(i) or _without_credit(one) for i, one in enumerate(scored)]


def is_shown(one: KeptSteps, config: CreditConfig) -> bool:
    """Whether the estimator can make anything of a trajectory; the others have no credit and no part in a statistic."""
    if not one.scored.trajectory.steps:
        return False
    if config.level == "trajectory":
        return one.outcome is not None
    if config.needs_outcome and one.outcome is None and not (one.was_cut and config.states is not None):
        return False
    return bool(one.indices) and _knows_an_end(one, config)


def _knows_an_end(one: KeptSteps, config: CreditConfig) -> bool:
    """Whether the returns of the steps are known: what a replay told needs none."""
    if isinstance(config, kinds.LeaveOneOutConfig) or not one.was_cut:
        return True
    return config.states is not None and one.bootstrap is not None


def _kept(scored: Sequence[ScoredTrajectory], values: Readings | None, config: CreditConfig) -> list[KeptSteps]:
    if config.states is None:
        return [keep(one) for one in scored]
    if values is None:
        raise ValueError(f"{config.kind}: no values; expected V of every state, from the critic of the configuration")
    read = read_by_step(scored, values, config.states, config.kind)
    return [keep(one, by_step) for one, by_step in zip(scored, read, strict=True)]


def _rows(
    batch: Sequence[KeptSteps], estimates: Sequence[Estimate], units: Sequence[Units], config: CreditConfig
) -> list[CreditedTrajectory]:
    silent = uniform([one.group for one in batch], units)
    rows: list[CreditedTrajectory] = []
    for one, estimate, own in zip(batch, estimates, units, strict=True):
        by_step = own * len(one.indices) if config.level == "trajectory" else own
        returns = estimate.returns
        if one.group in silent:
            by_step = (None,) * len(one.indices)
            # A critic learns from a group that teaches the policy nothing; without one there is nobody to learn.
            returns = returns if config.states is not None else by_step
        rows.append(_row(one, by_step, returns, by_token=config.level == "token"))
    return rows


def _row(one: KeptSteps, advantages: Units, returns: Units, *, by_token: bool) -> CreditedTrajectory:
    tokens = TokenCredit(_spread(one, advantages), _spread(one, returns)) if by_token else None
    return CreditedTrajectory(one.scored, one.spread(_means(advantages)), one.spread(_firsts(returns)), tokens)


def _spread(one: KeptSteps, units: Units) -> TokenCredits:
    spread: list[Numbers | None] = [None] * len(one.scored.trajectory.steps)
    for index, numbers in zip(one.indices, units, strict=True):
        spread[index] = numbers
    return tuple(spread)


def _means(units: Units) -> Credits:
    return tuple(
        None if numbers is None else numbers[0] if len(numbers) == 1 else math.fsum(numbers) / len(numbers)
        for numbers in units
    )


def _firsts(units: Units) -> Credits:
    """Of each step the target at the state before its first token, which is the state before the step."""
    return tuple(None if numbers is None else numbers[0] for numbers in units)


def _without_credit(scored: ScoredTrajectory) -> CreditedTrajectory:
    nothing = (None,) * len(scored.trajectory.steps)
    return CreditedTrajectory(scored, nothing, nothing)


def _expect_credit(
    batch: Sequence[KeptSteps], estimates: Sequence[Estimate], units: Sequence[Units], config: CreditConfig
) -> None:
    if any(chain(*(chain(*filter(None, own)) for own in units))):
        return
    seen: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one, estimate, own in zip(batch, estimates, units, strict=True):
        if any(numbers is not None for numbers in own):
            for index, number in estimate.seen.items():
                seen[one.group, index].append(number)
    differing = sorted({group for (group, _), numbers in seen.items() if max(numbers) - min(numbers) > SAME})
    if differing:
        raise NoCredit(
            f"{config.kind}: rewards differ within {len(differing)} groups (first {differing[0]!r}) and every "
            "advantage is zero; expected at least one step with credit; look at the critic's values and the estimator"
        )
