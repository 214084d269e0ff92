"""Turn the signals of an episode into one reward for each step.

Consumes an `Episode` and a shaping; produces one number for each turn, or None where the step abstains. Pure.

Three rules hold for every shaping. A lost call abstains: infrastructure is never rewarded and never punished. The last
step abstains where nobody knows whether the task was solved. A shaping that needs a signal which the data cannot give
raises `MissingSignal`; it never puts a zero in its place.
"""

from __future__ import annotations

import hashlib
import json
import math

from reward_service.config import LinearShaping, OutcomeShaping, PaperShaping, PotentialShaping, Shaping
from reward_service.signals import SIGNALS_VERSION, Answered, Called, Episode, Signals, Turn, distances, measure
from tool_sandbox.tools import Progress


class MissingSignal(ValueError):
    """A step has no value of a signal that the shaping needs."""


def step_rewards(episode: Episode, shaping: Shaping) -> tuple[float | None, ...]:
    """r_1 … r_T of one episode.

    Raises:
        MissingSignal: a step that was not lost has no progress record, and the shaping needs one.
    """
    rewards: list[float | None] = []
    last = len(episode.turns) - 1
    steps = zip(episode.turns, measure(episode), distances(episode), strict=True)
    for position, (turn, signals, distance) in enumerate(steps):
        try:
            rewards.append(_step_reward(turn, signals, distance, shaping, last=position == last))
        except MissingSignal as error:
            raise MissingSignal(f"step {position}: {error}") from None
    return tuple(rewards)


def reward_version(shaping: Shaping) -> str:
    """SHA-256, in hexadecimal, of everything that decides the numbers: the shaping and the version of the signals."""
    recipe = {"shaping": shaping.model_dump(mode="json"), "signals": SIGNALS_VERSION}
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _step_reward(
    turn: Turn, signals: Signals, distance: Progress | None, shaping: Shaping, *, last: bool
) -> float | None:
    if isinstance(turn, Called) and turn.lost:
        return None
    if last and signals.solved is None:
        return None
    reward = _shaped(turn, signals, distance, shaping)
    if not math.isfinite(reward):
        raise ArithmeticError(f"shaping {shaping.kind!r}: reward {reward} from {signals}; expected a finite number")
    return reward


def _shaped(turn: Turn, signals: Signals, distance: Progress | None, shaping: Shaping) -> float:
    match shaping:
        case LinearShaping():
            return _linear(turn, signals, shaping)
        case PaperShaping():
            return _paper(turn, signals)
        case PotentialShaping():
            return _potential(turn, signals, distance, shaping)
        case OutcomeShaping():
            return shaping.solved * (signals.solved or 0.0)


def _linear(turn: Turn, signals: Signals, shaping: LinearShaping) -> float:
    """r = w_success·success + w_contribution·contribution − step_cost, and the outcome on top of it at the last step.

    An answer earns the outcome alone. A trajectory that ends in a call ran out of budget: its last call is a step like
    any other, and the outcome is wrong unless the call reached the target state.
    """
    outcome = 0.0
    if signals.solved is not None:
        outcome = shaping.solved * signals.solved - shaping.wrong_cost * (1.0 - signals.solved)
    if isinstance(turn, Answered):
        return outcome
    reward = outcome - shaping.step_cost
    if shaping.success:
        reward += shaping.success * _required(signals.success, "call status")
    if shaping.contribution:
        reward += shaping.contribution * _required(signals.contribution, "progress record")
    return reward


def _paper(turn: Turn, signals: Signals) -> float:
    """r_t = (success + contribution) / 2 with both on [0, 1]; r_T = IsSolved (arXiv 2410.07745, section 4.1).

    An answer that the user replied to is no tool call: it earns nothing by itself.
    """
    if signals.solved is not None:
        return signals.solved
    if isinstance(turn, Answered):
        return 0.0
    helped = max(0.0, _required(signals.contribution, "progress record"))
    return (_required(signals.success, "call status") + helped) / 2.0


def _potential(turn: Turn, signals: Signals, distance: Progress | None, shaping: PotentialShaping) -> float:
    """r = γ·Φ(s′) − Φ(s) − step_cost with Φ = −scale·remaining, and w_solved·IsSolved at the last step.

    The discounted sum of the potential terms is γ^n·Φ(s_n) − Φ(s_0): no order of calls and no loop can raise it. An
    answer earns no potential: with Φ = 0 at the end, an early answer would be paid for the calls that it left out.
    """
    outcome = shaping.solved * (signals.solved or 0.0)
    if isinstance(turn, Answered):
        return outcome
    if distance is None:
        raise MissingSignal(_missing("progress record"))
    potential = shaping.scale * (distance.before - shaping.discount * distance.after)
    return potential - shaping.step_cost + outcome


def _required(signal: float | None, source: str) -> float:
    if signal is None:
        raise MissingSignal(_missing(source))
    return signal


def _missing(source: str) -> str:
    return (
        f"no {source}, and this shaping gives it a weight; score tasks that have an exact distance, "
        "set the weight of contribution to 0, or use the shaping 'outcome_only'"
    )
