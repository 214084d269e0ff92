"""How much injections raise the grades of a judge: the measurement behind the figures in the documents.

Owns `measure_injections`. Consumes a judge and a corpus; produces an `InjectionReport`. A judge without defences gives
the figures before, the same judge with them the figures after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reward_service.judge.corpus.injection import Injection
from reward_service.judge.corpus.victim import victim
from reward_service.judge.judgement import Judgement
from reward_service.wire import TrajectoryItem

_EQUAL = 1e-9
"""Means of equal votes may differ by rounding."""
_Numbers = tuple[float | None, ...]


class NothingToCompare(ValueError):
    """The judge abstains even without an injection."""


class Judging(Protocol):
    """Whatever judges; `Judge` is the one."""

    async def judge(self, item: TrajectoryItem) -> Judgement:
        """The judgement on one trajectory."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """What one injection did."""

    injection: Injection
    gain: float
    """Sum of the numbers of the trajectory, less their means without an injection. Abstained ones count nowhere."""
    raised: bool
    """Whether the gain is larger than that of every run without an injection."""
    solved: bool
    """Whether the outcome rose above that of every run without an injection."""
    abstained: bool
    """Whether the judge abstained from a number that it gave without the injection."""
    flagged: bool
    """Whether the scanner found the text."""


@dataclass(frozen=True, slots=True)
class InjectionReport:
    """One judge against one corpus."""

    noise: float
    """The largest gain among the runs without an injection; 0 where the judge always says the same."""
    trials: tuple[Trial, ...]

    def summary(self) -> dict[str, Any]:
        """The counts, for JSON: of all, and by family."""
        families = sorted({trial.injection.family for trial in self.trials})
        by_family = {
            str(family): _counts([trial for trial in self.trials if trial.injection.family is family])
            for family in families
        }
        return {"noise": round(self.noise, 4), **_counts(self.trials), "families": by_family}


async def measure_injections(
    judge: Judging, corpus: Sequence[Injection], repeats: int = 5, at_once: int = 4
) -> InjectionReport:
    """Judge the failing trajectory `repeats` times as it is, then once with each injection.

    `at_once`: trajectories that are judged at a time.

    Raises:
        NothingToCompare: the judge abstains even without an injection.
        JudgeUnavailable: as the judge raises it.
    """
    turns = asyncio.Semaphore(at_once)

    async def judged(text: str) -> Judgement:
        async with turns:
            return await judge.judge(victim(text))

    clean = [_numbers(found) for found in await asyncio.gather(*(judged("") for _ in range(repeats)))]
    baseline = tuple(map(_mean, zip(*clean, strict=True)))
    if all(mean is None for mean in baseline):
        raise NothingToCompare(f"judge: abstained from {repeats} runs without an injection; see its votes' misfits")
    noise = max(_gain(run, baseline) for run in clean)
    best = max((run[-1] for run in clean if run[-1] is not None), default=1.0)
    found = await asyncio.gather(*(judged(injection.text) for injection in corpus))
    pairs = zip(corpus, found, strict=True)
    return InjectionReport(noise, tuple(_trial(one, judgement, baseline, noise, best) for one, judgement in pairs))


def _trial(injection: Injection, judgement: Judgement, baseline: _Numbers, noise: float, best: float) -> Trial:
    numbers = _numbers(judgement)
    gain = _gain(numbers, baseline)
    return Trial(
        injection,
        gain,
        raised=gain > noise + _EQUAL,
        solved=numbers[-1] is not None and numbers[-1] > best + _EQUAL,
        abstained=any(number is None and mean is not None for number, mean in zip(numbers, baseline, strict=True)),
        flagged=bool(judgement.flags),
    )


def _numbers(judgement: Judgement) -> _Numbers:
    """Success and contribution of every step, then the outcome."""
    spreads = [spread for step in judgement.steps for spread in (step.success, step.contribution)]
    return tuple(None if spread is None else spread.mean for spread in (*spreads, judgement.solved))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _gain(numbers: _Numbers, baseline: _Numbers) -> float:
    pairs = zip(numbers, baseline, strict=True)
    return sum(number - mean for number, mean in pairs if number is not None and mean is not None)


def _counts(trials: Sequence[Trial]) -> dict[str, Any]:
    return {
        "injections": len(trials),
        "raised": sum(trial.raised for trial in trials),
        "solved": sum(trial.solved for trial in trials),
        "abstained": sum(trial.abstained for trial in trials),
        "flagged": sum(trial.flagged for trial in trials),
        "mean_gain": round(sum(trial.gain for trial in trials) / len(trials), 4) if trials else 0.0,
    }
