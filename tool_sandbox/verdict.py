"""Was a task solved? One pure function that evaluation and the reward service share, so that they cannot disagree."""

from __future__ import annotations

import re
from decimal import Decimal

from tool_sandbox.tasks import GroundTruth

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def solved(
    ground_truth: GroundTruth, answer: str | None, state_hash: str | None, checked: bool | None = None
) -> bool | None:
    """Whether an episode that ended with `answer` in the state `state_hash` solved its task; None where nobody knows.

    `checked` is the verdict of the toolset itself (`Judged`); where there is one, it decides. Otherwise an expected
    answer is compared after normalisation: case, outer white space and a trailing period do not count, and numbers
    compare by value (`42` is `42.0`). An expected state must be reached exactly, whatever the answer says.
    """
    if checked is not None:
        return checked
    if ground_truth.state_hash is not None:
        return None if state_hash is None else state_hash == ground_truth.state_hash
    if ground_truth.answer is None:
        return None
    return answer is not None and _normal(answer) == _normal(ground_truth.answer)


def _normal(text: str) -> str | Decimal:
    plain = text.strip().casefold().removesuffix(".").rstrip()
    return Decimal(plain) if _NUMBER.fullmatch(plain) else plain
