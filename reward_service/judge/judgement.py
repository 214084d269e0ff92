"""What a judge says: the votes, and what they come to.

Owns `Vote`, which is what one asks a model for and keeps, and `Judgement`, which is what one gets. Plain frozen values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from reward_service.judge.config import Prices

HIGHEST_CONTRIBUTION = 5
"""Of the rubric; contributions are divided by it."""
_MILLION = 1_000_000


class Outcome(StrEnum):
    """Whether the trajectory solved its task, as the judge spells it."""

    SOLVED = "Solved"
    UNSURE = "Unsure"
    UNSOLVED = "Unsolved"

    @property
    def score(self) -> float:
        """1, ½ or 0."""
        return {Outcome.SOLVED: 1.0, Outcome.UNSURE: 0.5, Outcome.UNSOLVED: 0.0}[self]


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """The grades of one step in one vote, as the model gave them."""

    success: int
    """1 or 0."""
    contribution: int
    """0 to 5."""
    reason: str


@dataclass(frozen=True, slots=True)
class FinalVerdict:
    """The outcome in one vote, as the model gave it."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What answers took. Requests without an answer count nowhere: nobody knows what they took."""

    requests: int = 0
    """Answered ones, also where the answer did not fit."""
    unreported: int = 0
    """Those among them whose tokens the server did not count."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.unreported + other.unreported,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def cost(self, prices: Prices) -> float:
        """In the currency of `prices`."""
        read = self.prompt_tokens * prices.prompt_per_million
        written = self.completion_tokens * prices.completion_per_million
        return (read + written) / _MILLION


@dataclass(frozen=True, slots=True)
class Vote:
    """One complete opinion on one trajectory."""

    steps: tuple[StepVerdict | None, ...]
    """One for each step; None where the step is not asked about, or the answer was lost."""
    final: FinalVerdict | None
    """None where the outcome is not asked about, or the answer was lost."""
    misfits: tuple[str, ...]
    """Why answers did not fit, also those that a later one replaced."""
    usage: Usage


@dataclass(frozen=True, slots=True)
class Spent:
    """What votes took when they were cast; one that was found where it was kept takes nothing."""

    votes: int = 0
    """With those that were lost."""
    lost_votes: int = 0
    """Votes of which an answer was lost."""
    usage: Usage = Usage()
    cost: float = 0.0
    """0 where the endpoint has no price."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.votes + other.votes,
            self.lost_votes + other.lost_votes,
            self.usage + other.usage,
            self.cost + other.cost,
        )


class Place(StrEnum):
    """Where in a step or a tool a text stands."""

    CALL = "call"
    """Name and arguments, as the model wrote them."""
    OBSERVATION = "observation"
    ANSWER = "answer"
    UNREADABLE = "unreadable"
    """Why a turn could not be read as a call."""
    TOOL = "tool"
    """Name, description and parameters of a tool."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A text that the scanner found suspicious."""

    index: int
    """Of the step; of the tool in `tools` where `place` is `TOOL`."""
    place: Place
    rules: tuple[str, ...]
    """Names of the rules that spoke, see `scanner`."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One number over the votes."""

    mean: float
    variance: float
    """Of the votes around their mean (divided by their number): 0 where all agree."""
    votes: int
    """How many there were; 0 where the number is a fact that nobody was asked about."""

    @classmethod
    def fact(cls, value: float) -> Self:
        """A number that needs no vote."""
        return cls(value, 0.0, 0)

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Over at least one vote."""
        found = tuple(values)
        mean = sum(found) / len(found)
        return cls(mean, sum((value - mean) ** 2 for value in found) / len(found), len(found))


@dataclass(frozen=True, slots=True)
class StepJudgement:
    """What the votes say of one step."""

    success: Spread | None
    """On [0, 1]; None: the judge abstains, or the step is an answer or a lost call."""
    contribution: Spread | None
    """On [0, 1]; None as above."""
    reason: str | None
    """Of the vote nearest to the mean; None where nobody gave one."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one trajectory."""

    steps: tuple[StepJudgement, ...]
    """One for each step, in order."""
    solved: Spread | None
    """On [0, 1]; None: the judge abstains, or infrastructure ended the episode."""
    solved_reason: str | None
    votes: tuple[Vote, ...]
    flags: tuple[Flag, ...]
    """Texts that were withheld from the judge."""
    usage: Usage
    cost: float | None
    """Of all votes; None where the endpoint has no price."""
