"""Tasks: a prompt, the tools that may be used, and the ground truth that decides whether it was solved.

Owns the `Task` type and the reasons for which an episode may end. A task carries all that is needed to open an
identical session anywhere, any number of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Split(StrEnum):
    """Which part of the task space a task belongs to; decided by a hash of its signature, never by chance."""

    TRAIN = "train"
    VAL = "val"
    TEST_IID = "test_iid"
    TEST_TOOLS = "test_tools"
    """One tool family is never seen in training."""
    TEST_COMP = "test_comp"
    """Pairs of tools that are never adjacent in training."""
    TEST_DEPTH = "test_depth"
    """Chains two calls deeper than in training."""


class StopReason(StrEnum):
    """Why an episode ended; the contract of the reward service spells it so."""

    ANSWERED = "answered"
    STEP_BUDGET = "step_budget"
    CONTEXT_OVERFLOW = "context_overflow"
    """The next turn would not have fitted the model's context; nothing was cut."""
    TURN_TOO_LONG = "turn_too_long"
    """The model did not end its turn within its token budget."""
    INFRASTRUCTURE = "infrastructure"
    """The sandbox was lost; the steps up to there are good."""


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """What solves the task. Exactly one of `answer` and `state_hash` is set, or neither where nobody knows."""

    answer: str | None = None
    state_hash: str | None = None
    minimum_calls: int | None = None
    """Fewest calls that solve the task, with those that a faulty tool makes fail; None where the toolset does not know."""


@dataclass(frozen=True, slots=True)
class Task:
    """One problem for the policy."""

    id: str
    """Unique and stable: the same id is the same task in every process and run."""
    toolset: str
    """Name in the toolset registry."""
    prompt: str
    tools: tuple[str, ...]
    """Names of the tools offered to the model, in the order shown."""
    ground_truth: GroundTruth
    level: str
    split: Split
    payload: Mapping[str, Any]
    """JSON-able data from which the toolset rebuilds the world."""
