"""When an answer counts as the expected one. Owns the kinds of comparison; pure.

The default is the comparison of the ledger and of evaluation (`tool_sandbox.verdict`), so that a trainer and its
evaluation cannot disagree by accident.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tool_sandbox.tasks import GroundTruth
from tool_sandbox.verdict import solved as normalised_solved

_NUMBER = re.compile(
    r"(?:(?<![\w.%)\]])[+-])?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+)"
)
"""A hyphen behind a word, a number or what closes one joins them, as in `10-17` and `2023-05-17`: it is no sign."""
_READ_CHARACTERS = 4096
"""Of an answer, from its end, where the number is looked for."""


class _Match(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExactMatch(_Match):
    """Character by character."""

    kind: Literal["exact"] = "exact"


class NormalisedMatch(_Match):
    """Case, outer white space and a trailing period do not count; numbers compare by value."""

    kind: Literal["normalised"] = "normalised"


class NumericMatch(_Match):
    """The last number of the answer, within a tolerance; an expected answer that is no number is normalised."""

    kind: Literal["numeric"] = "numeric"
    relative: Annotated[float, Field(ge=0, le=1)] = 1e-6
    absolute: Annotated[float, Field(ge=0)] = 0.0


AnswerMatch = Annotated[ExactMatch | NormalisedMatch | NumericMatch, Field(discriminator="kind")]
NORMALISED = NormalisedMatch()


def solved(
    ground_truth: GroundTruth,
    answer: str | None,
    state_hash: str | None,
    checked: bool | None,
    match: ExactMatch | NormalisedMatch | NumericMatch = NORMALISED,
) -> bool | None:
    """As `tool_sandbox.verdict.solved`, with the comparison of answers that `match` names."""
    expected = ground_truth.answer
    by_answer = checked is None and ground_truth.state_hash is None
    if not by_answer or expected is None or answer is None or isinstance(match, NormalisedMatch):
        return normalised_solved(ground_truth, answer, state_hash, checked)
    if isinstance(match, ExactMatch):
        return answer == expected
    target, found = _only_number(expected), _last_number(answer)
    if target is None:
        return normalised_solved(ground_truth, answer, state_hash, checked)
    return found is not None and math.isclose(found, target, rel_tol=match.relative, abs_tol=match.absolute)


def _only_number(text: str) -> float | None:
    return _value(text.strip()) if _NUMBER.fullmatch(text.strip()) else None


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text[-_READ_CHARACTERS:])
    return _value(found[-1]) if found else None


def _value(digits: str) -> float | None:
    value = float(digits.replace(",", ""))
    return value if math.isfinite(value) else None
