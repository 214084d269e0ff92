"""Signals by a step model: what it reads is written, what it answers is measured.

Consumes trajectories and a `StepModel`; produces a column for each signal of the kind `learned`. A lost call abstains
without being asked about. Success and contribution say nothing of an answer, and a turn that ran nothing has 0 of both.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from reward_service.errors import ScorerUnavailable, SignalBroken, StepModelUnusable
from reward_service.learned.config import Clipped, LearnedSignal, Output, Sigmoid, Softmax, StepModelConfig
from reward_service.learned.files import fingerprint
from reward_service.learned.model import Row, StepModel
from reward_service.learned.rendering import step_text
from reward_service.measuring import Column
from reward_service.signals import Called, Turn, Unparsed
from reward_service.wire import TrajectoryItem
from tool_sandbox.tasks import StopReason


class StepModelSignals:
    """One step model behind the places of a recipe."""

    def __init__(self, config: StepModelConfig, model: StepModel) -> None:
        self._config = config
        self._model = model

    @property
    def fingerprint(self) -> str:
        """Changes with the model's files and with what it reads."""
        return fingerprint(self._config, self._model.facts.digest)

    def check(self, signals: Mapping[str, LearnedSignal]) -> None:
        """Whether the model has the outputs that `signals` name.

        Raises:
            StepModelUnusable: it does not.
        """
        labels = self._model.facts.labels
        for name, signal in signals.items():
            if signal.label >= labels:
                raise StepModelUnusable(
                    self._config.model, f"signal {name!r} wants output {signal.label}, and it has {labels}, from 0"
                )

    async def columns(self, item: TrajectoryItem, signals: Mapping[str, LearnedSignal]) -> Mapping[str, Column]:
        """One value for each step and signal.

        Raises:
            ScorerUnavailable: the model was lost, or did not answer in time.
            SignalBroken: it gave what is no number.
        """
        asked = [i for i in range(len(item.steps)) if any(_is_asked(name, item, i) for name in signals)]
        rows = dict(zip(asked, await self._rows(item, asked), strict=True))
        return {name: _column(name, signal, item, rows) for name, signal in signals.items()}

    async def _rows(self, item: TrajectoryItem, asked: Sequence[int]) -> Sequence[Row]:
        if not asked:
            return ()
        texts = [step_text(item, position, self._config) for position in asked]
        try:
            async with asyncio.timeout(self._config.seconds):
                return await self._model.scores(texts)
        except TimeoutError as error:
            raise ScorerUnavailable(
                f"step model: no scores for trajectory {item.id!r} within {self._config.seconds:g} s; "
                "give it more replicas, or allow more time in step_model.seconds"
            ) from error


def _column(name: str, signal: LearnedSignal, item: TrajectoryItem, rows: Mapping[int, Row]) -> Column:
    return [
        _measured(signal.output, rows[i], signal.label) if _is_asked(name, item, i) else _unasked(name, step.turn())
        for i, step in enumerate(item.steps)
    ]


def _is_asked(name: str, item: TrajectoryItem, position: int) -> bool:
    turn = item.steps[position].turn()
    if isinstance(turn, Called) and turn.lost:
        return False
    if name == "solved":
        return position == len(item.steps) - 1 and item.stop is not StopReason.INFRASTRUCTURE
    return isinstance(turn, Called) or name not in ("success", "contribution")


def _unasked(name: str, turn: Turn) -> float | None:
    return 0.0 if isinstance(turn, Unparsed) and name in ("success", "contribution") else None


def _measured(output: Output, row: Row, label: int) -> float:
    if not all(map(math.isfinite, row)):
        raise SignalBroken(f"step model: gave {list(row)[:8]}; expected finite numbers, see its weights")
    match output:
        case Sigmoid():
            # tanh, since e^-x overflows for an x that a logit may well be.
            return 0.5 * (1.0 + math.tanh(0.5 * row[label]))
        case Softmax():
            highest = max(row)
            return math.exp(row[label] - highest) / sum(math.exp(one - highest) for one in row)
        case Clipped():
            return max(output.low, min(output.high, row[label]))
