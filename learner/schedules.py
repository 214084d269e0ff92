"""The learning rate of each optimiser step. Owns `rate_at`. Pure."""

from __future__ import annotations

import math

from learner.config import ConstantSchedule, CosineSchedule, LinearSchedule, OptimiserConfig


def rate_at(step: int, peak: float, config: OptimiserConfig) -> float:
    """The rate of the step after `step` others: a linear rise to `peak`, then what the schedule says.

    With u = (step − warmup) / (steps − warmup), held at 1 from the last step on, and f the final share:

    - constant: peak
    - linear: peak·(1 − (1 − f)·u)
    - cosine: peak·(f + (1 − f)·(1 + cos πu) / 2) (Loshchilov & Hutter 2017, eq. 5)
    """
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    match config.schedule:
        case ConstantSchedule():
            return peak
        case LinearSchedule(final=final):
            return peak * (1.0 - (1.0 - final) * _done(step, config.warmup_steps, config.schedule.steps))
        case CosineSchedule(final=final):
            done = _done(step, config.warmup_steps, config.schedule.steps)
            return peak * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done)))


def _done(step: int, warmup: int, steps: int) -> float:
    return min(1.0, (step - warmup) / (steps - warmup))
