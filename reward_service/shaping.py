"""Turn the signals of an episode into one reward for each step.

Consumes an `Episode`, its signals and a shaping; produces the parts of each turn's reward, or None where the step
abstains. Pure.

Three rules hold for every shaping. A lost call abstains: infrastructure is never rewarded and never punished. The last
step abstains where nobody knows whether the task was solved. A shaping that needs a signal which the data cannot give
raises `MissingSignal`, and a step abstains where a judge had none to give; it never puts a zero in its place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from reward_service.config import LinearShaping, OutcomeShaping, PaperShaping, PotentialShaping, Shaping
from reward_service.rewards import Component
from reward_service.signals import SIGNALS_VERSION, Answered, Called, Episode, Signals, Turn, distances
from tool_sandbox.tools import Progress


class MissingSignal(ValueError):
    """A step has no value of a signal that the shaping needs."""


def step_components(
    episode: Episode, measured: Sequence[Signals], shaping: Shaping
) -> tuple[tuple[Component, ...] | None, ...]:
    """What r_1 … r_T are made of; None where a step abstains. A step's reward is the sum of its components' values.

    Raises:
        MissingSignal: a step that was not lost lacks a signal that the shaping needs.
    """
    parts: list[tuple[Component, ...] | None] = []
    last = len(episode.turns) - 1
    steps = zip(episode.turns, measured, distances(episode), strict=True)
    for position, (turn, signals, distance) in enumerate(steps):
        try:
            parts.append(_step(turn, signals, distance, shaping, last=position == last))
        except MissingSignal as error:
            if not signals.abstains:
                raise MissingSignal(f"step {position}: {error}") from None
            parts.append(None)
    return tuple(parts)


def recipe_version(recipe: Mapping[str, JsonValue]) -> str:
    """SHA-256, in hexadecimal, of everything that decides the numbers: shaping, signals, their versions."""
    canonical = json.dumps({**recipe, "rules": SIGNALS_VERSION}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _step(
    turn: Turn, signals: Signals, distance: Progress | None, shaping: Shaping, *, last: bool
) -> tuple[Component, ...] | None:
    if isinstance(turn, Called) and turn.lost:
        return None
    if last and signals.solved is None:
        return None
    parts = _shaped(turn, signals, distance, shaping)
    if not all(math.isfinite(part.value) for part in parts):
        raise ArithmeticError(f"shaping {shaping.kind!r}: {parts} from {signals}; expected finite numbers")
    return parts


def _shaped(turn: Turn, signals: Signals, distance: Progress | None, shaping: Shaping) -> tuple[Component, ...]:
    match shaping:
        case LinearShaping():
            return tuple(_linear(turn, signals, shaping))
        case PaperShaping():
            return tuple(_paper(turn, signals))
        case PotentialShaping():
            return tuple(_potential(turn, signals, distance, shaping))
        case OutcomeShaping():
            return (Component("solved", signals.solved, shaping.solved),) if signals.solved is not None else ()


def _linear(turn: Turn, signals: Signals, shaping: LinearShaping) -> Iterator[Component]:
    """r = w_success·success + w_contribution·contribution − step_cost, and the outcome on top of it at the last step.

    An answer earns the outcome alone. A trajectory that ends in a call ran out of budget: its last call is a step like
    any other, and the outcome is wrong unless the call reached the target state. Added signals count where they are
    known: one that abstains is no part of the reward.
    """
    if signals.solved is not None:
        yield Component("solved", signals.solved, shaping.solved)
        if shaping.wrong_cost:
            yield Component("wrong_cost", 1.0 - signals.solved, -shaping.wrong_cost)
    for name, weight in shaping.extra.items():
        if (raw := signals.extra[name]) is not None:
            yield Component(name, raw, weight)
    if isinstance(turn, Answered):
        return
    if shaping.step_cost:
        yield Component("step_cost", 1.0, -shaping.step_cost)
    if shaping.success:
        yield Component("success", _required(signals.success, "call status"), shaping.success)
    if shaping.contribution:
        yield Component("contribution", _required(signals.contribution, "progress record"), shaping.contribution)


def _paper(turn: Turn, signals: Signals) -> Iterator[Component]:
    """r_t = (success + contribution) / 2 with both on [0, 1]; r_T = IsSolved (arXiv 2410.07745, section 4.1).

    An answer that the user replied to is no tool call: it earns nothing by itself.
    """
    if signals.solved is not None:
        yield Component("solved", signals.solved, 1.0)
    elif not isinstance(turn, Answered):
        yield Component("success", _required(signals.success, "call status"), 0.5)
        yield Component("contribution", max(0.0, _required(signals.contribution, "progress record")), 0.5)


def _potential(
    turn: Turn, signals: Signals, distance: Progress | None, shaping: PotentialShaping
) -> Iterator[Component]:
    """r = γ·Φ(s′) − Φ(s) − step_cost with Φ = −scale·remaining, and w_solved·IsSolved at the last step.

    The discounted sum of the potential terms is γ^n·Φ(s_n) − Φ(s_0): no order of calls and no loop can raise it. An
    answer earns no potential: with Φ = 0 at the end, an early answer would be paid for the calls that it left out.
    """
    if not isinstance(turn, Answered):
        if distance is None:
            raise MissingSignal(_missing("progress record"))
        yield Component("potential", distance.before - shaping.discount * distance.after, shaping.scale)
        if shaping.step_cost:
            yield Component("step_cost", 1.0, -shaping.step_cost)
    if signals.solved is not None:
        yield Component("solved", signals.solved, shaping.solved)


def _required(signal: float | None, source: str) -> float:
    if signal is None:
        raise MissingSignal(_missing(source))
    return signal


def _missing(source: str) -> str:
    return (
        f"no {source}, and this shaping gives it a weight; score tasks that have an exact distance, "
        "set the weight of contribution to 0, or use the shaping 'outcome_only'"
    )
