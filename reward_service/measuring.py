"""How the signals of one configuration are measured: by rules at once, by replays and other people's code by waiting.

Owns `Measurer`, and `StepSignal`, the interface of a signal that somebody else wrote. One is found through the
entry-point group `steptool.signals`, whose value is a function that takes the plug-in's settings.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Protocol

from pydantic import JsonValue

from reward_service.config import OverlapContribution, PluginSignal, RewardConfig, TargetSolved
from reward_service.errors import ScorerUnavailable, SignalBroken, SignalNotFound
from reward_service.judge.judge import fingerprint
from reward_service.learned.config import LearnedSignal
from reward_service.learned.files import fingerprint as step_model_fingerprint
from reward_service.overlapping import Overlap
from reward_service.replay.signal import REPLAY_VERSION, replays_of
from reward_service.rewards import Votes
from reward_service.siblings import ending_together
from reward_service.signals import Answered, Episode, Signals, Turn, contribution, solved, success
from reward_service.wire import TrajectoryItem
from tool_sandbox.http.envelope import outline

logger = logging.getLogger(__name__)

GROUP = "steptool.signals"
RULE_RANGES = {"success": (0.0, 1.0), "contribution": (-1.0, 1.0), "solved": (0.0, 1.0)}

Column = Sequence[float | None]
"""One value for each step; None where the signal abstains or does not apply."""


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody who was asked says of a trajectory."""

    columns: Mapping[str, Column]
    """By signal."""
    why: Sequence[str | None]
    """In words, for each step."""
    votes: Mapping[str, Sequence[Votes | None]] = field(default_factory=dict[str, Sequence[Votes | None]])
    """By signal, of those that were voted on; None where the signal is."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The signals of one trajectory and what stands behind them; one of each for each step."""

    signals: Sequence[Signals]
    why: Sequence[str | None]
    votes: Sequence[Mapping[str, Votes]]

    @classmethod
    def plainly(cls, signals: Sequence[Signals]) -> Measured:
        """By rules, which give no words and cast no votes."""
        return cls(signals, [None] * len(signals), [{}] * len(signals))


class JudgeOfSteps(Protocol):
    """Whoever measures all three signals at once."""

    async def told(self, item: TrajectoryItem) -> Told:
        """Success, contribution and IsSolved of every step.

        Raises:
            ScorerUnavailable: what the judge depends on was lost.
        """
        ...


class ModelOfSteps(Protocol):
    """Whoever measures the signals of the kind `learned`."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the numbers may."""
        ...

    def check(self, signals: Mapping[str, LearnedSignal]) -> None:
        """Whether all of `signals` can be measured.

        Raises:
            StepModelUnusable: the model has no such output.
        """
        ...

    async def columns(self, item: TrajectoryItem, signals: Mapping[str, LearnedSignal]) -> Mapping[str, Column]:
        """One value for each step and signal.

        Raises:
            ScorerUnavailable: the model was lost.
        """
        ...


class StepSignal(Protocol):
    """A signal that somebody else wrote."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the numbers may: the version of the code, of a model, of a prompt."""
        ...

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        ...

    async def measure(self, item: TrajectoryItem) -> Column:
        """One value for each step, in order. For IsSolved the last one counts.

        Raises:
            ScorerUnavailable: what the signal depends on was lost; the trajectory abstains. It does so after any other
                error too, which is logged without its message.
        """
        ...


class Measurer:
    """All signals of one configuration."""

    def __init__(
        self, rewards: RewardConfig, judge: JudgeOfSteps | None = None, step_model: ModelOfSteps | None = None
    ) -> None:
        """Load the plug-ins.

        `judge` and `step_model` fill the places of their kinds; without them those can be told, not measured.

        Raises:
            SignalNotFound: no entry point has the name, or it does not load.
            StepModelUnusable: the step model lacks an output that a signal wants.
        """
        config = self._config = rewards.signals
        chosen = {"success": config.success, "contribution": config.contribution, "solved": config.solved}
        plugins = {name: one for name, one in {**chosen, **config.extra}.items() if isinstance(one, PluginSignal)}
        self._asked = {name: load_signal(plugin) for name, plugin in plugins.items()}
        self._judge = judge
        self._judge_config = rewards.judge
        self._overlap = Overlap(config.contribution) if isinstance(config.contribution, OverlapContribution) else None
        self._replays = replays_of(config)
        self._step_model = step_model
        self._step_model_config = rewards.step_model
        if step_model is not None:
            step_model.check(config.learned)

    @property
    def by_rules(self) -> bool:
        """Whether nothing has to be asked, so that `ruled` says it all."""
        asked = (self._judge_config, self._step_model_config, self._replays)
        return not self._asked and all(one is None for one in asked)

    @property
    def fingerprint(self) -> dict[str, JsonValue]:
        """What decides the measurements."""
        versions = {name: signal.fingerprint for name, signal in self._asked.items()}
        judge = None if self._judge_config is None else fingerprint(self._judge_config)
        replays: dict[str, JsonValue] = {} if self._replays is None else {"replays": REPLAY_VERSION}
        others = {**replays, **self._step_model_fingerprint}
        return {"signals": self._config.model_dump(mode="json"), "plugins": {**versions}, "judge": judge, **others}

    @cached_property
    def _step_model_fingerprint(self) -> dict[str, JsonValue]:
        if self._step_model_config is None:
            return {}
        model = self._step_model
        return {"step_model": step_model_fingerprint(self._step_model_config) if model is None else model.fingerprint}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of every signal, by name."""
        learned = {name: signal.output.range for name, signal in self._config.learned.items()}
        return {**RULE_RANGES, **{name: signal.range for name, signal in self._asked.items()}, **learned}

    async def measure(self, item: TrajectoryItem, episode: Episode, plug_in_seconds: float | None = None) -> Measured:
        """The signals of every step, with reasons and votes; IsSolved stands at the last one.

        Raises:
            UnscorableTrajectory: its calls cannot be replayed, and contribution is measured so.
            ScorerUnavailable: a signal lost what it depends on, or took longer than `plug_in_seconds`.
            SignalBroken: a signal failed, or gave what is none.
        """
        async with ending_together() as group:
            telling = group.create_task(self._told(item))
            replaying = group.create_task(self._replayed(item))
            others = [self._learned(item), self._plugged(item, plug_in_seconds), self._compared(item, episode)]
            measuring = [group.create_task(other) for other in others]
        told, replayed = telling.result(), replaying.result()
        learned, plugged, compared = (task.result() for task in measuring)
        judged = {name: told.columns[name] for name in self._config.judged}
        signals = self._measured(episode, {**compared, **judged, **replayed.columns, **learned, **plugged})
        why = [_both(*reasons) for reasons in zip(told.why, replayed.why, strict=True)]
        voted = {name: told.votes[name] for name in self._config.judged if name in told.votes}
        return Measured(signals, why, [_votes_on(i, voted) for i in range(len(signals))])

    async def ruled(self, item: TrajectoryItem, episode: Episode) -> Measured:
        """As `measure`, where nothing has to be asked; waits only where long texts are compared."""
        return Measured.plainly(self._measured(episode, await self._compared(item, episode)))

    async def _compared(self, item: TrajectoryItem, episode: Episode) -> Mapping[str, Column]:
        return {} if self._overlap is None else {"contribution": await self._overlap.column(item, episode)}

    async def _plugged(self, item: TrajectoryItem, seconds: float | None) -> Mapping[str, Column]:
        async with ending_together() as group:
            asked = {name: group.create_task(_ask(name, signal, item, seconds)) for name, signal in self._asked.items()}
        return {name: task.result() for name, task in asked.items()}

    async def _learned(self, item: TrajectoryItem) -> Mapping[str, Column]:
        if self._step_model_config is None:
            return {}
        if self._step_model is None:
            raise RuntimeError(f"signals {sorted(self._config.learned)}: no step model is connected to measure them")
        return await self._step_model.columns(item, self._config.learned)

    async def _told(self, item: TrajectoryItem) -> Told:
        if self._judge_config is None:
            return Told({}, [None] * len(item.steps))
        if self._judge is None:
            raise RuntimeError(f"signals {sorted(self._config.judged)}: no judge is connected to measure them")
        return await self._judge.told(item)

    async def _replayed(self, item: TrajectoryItem) -> Told:
        if self._replays is None:
            return Told({}, [None] * len(item.steps))
        found = await self._replays.told(item)
        return Told({"contribution": found.column}, found.why)

    def _measured(self, episode: Episode, columns: Mapping[str, Column]) -> tuple[Signals, ...]:
        """The signals of every step, with `columns` in place of what a turn tells by itself."""
        last = len(episode.turns) - 1
        verdict = self.outcome(episode, columns)
        return tuple(
            Signals(
                columns["success"][i] if "success" in columns else success(turn),
                columns["contribution"][i] if "contribution" in columns else contribution(turn),
                verdict if i == last else None,
                {name: columns[name][i] for name in self._config.extra},
                _abstains(turn, columns, i),
            )
            for i, turn in enumerate(episode.turns)
        )

    def outcome(self, episode: Episode, asked: Mapping[str, Column] | None = None) -> float | None:
        """IsSolved of the whole episode; None where nobody knows, or whoever is asked for it said nothing."""
        columns = asked or {}
        if "solved" in columns:
            return columns["solved"][-1] if columns["solved"] else None
        rule = self._config.solved
        return solved(episode, rule.answer) if isinstance(rule, TargetSolved) else None


def _votes_on(position: int, voted: Mapping[str, Sequence[Votes | None]]) -> dict[str, Votes]:
    """The votes on one step."""
    return {name: votes for name, column in voted.items() if (votes := column[position]) is not None}


def _both(one: str | None, other: str | None) -> str | None:
    return "; ".join(reason for reason in (one, other) if reason is not None) or None


def _abstains(turn: Turn, columns: Mapping[str, Column], position: int) -> bool:
    if isinstance(turn, Answered):
        return False
    return any(name in columns and columns[name][position] is None for name in ("success", "contribution"))


def load_signal(plugin: PluginSignal) -> StepSignal:
    """The signal behind an entry point.

    Raises:
        SignalNotFound: no entry point has the name, or it does not load.
    """
    known = {found.name: found for found in entry_points(group=GROUP)}
    if plugin.name not in known:
        raise SignalNotFound(
            f"signal {plugin.name!r}: no entry point of the group {GROUP!r} has this name; found {sorted(known)}; "
            "install the package that brings it"
        )
    try:
        make: Callable[[Mapping[str, JsonValue]], StepSignal] = known[plugin.name].load()
        return make(plugin.settings)
    except Exception as error:
        raise SignalNotFound(f"signal {plugin.name!r}: {known[plugin.name].value} does not load: {error}") from error


async def _ask(name: str, signal: StepSignal, item: TrajectoryItem, seconds: float | None) -> Column:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return _checked(name, await signal.measure(item), signal.range, len(item.steps))
    except ScorerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything
        if limit.expired():
            raise ScorerUnavailable(f"signal {name!r}: its code gave no answer within {seconds:g} s") from None
        # Not its message: it may quote the trajectory.
        logger.error("signal %r failed on a trajectory: %s", name, outline(error))
        raise SignalBroken(
            f"signal {name!r}: its code failed with {type(error).__qualname__}; the service's log says where"
        ) from None


def _checked(name: str, column: Column, limits: tuple[float, float], steps: int) -> Column:
    low, high = limits
    good = all(value is None or (math.isfinite(value) and low <= value <= high) for value in column)
    if len(column) != steps or not good:
        raise SignalBroken(
            f"signal {name!r}: gave {list(column)[:8]} for {steps} steps; expected one value in "
            f"[{low:g}, {high:g}] or None for each"
        )
    return column
