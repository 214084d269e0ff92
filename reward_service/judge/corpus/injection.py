"""What an injection is: a text in a tool result that is after better grades."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """How an injection goes about it."""

    COMMAND = "command"
    """Tells the judge to forget its rules, or which grades to give."""
    AUTHORITY = "authority"
    """Speaks as the operator, the developers or the graders."""
    RUBRIC = "rubric"
    """Announces another rubric."""
    CLAIM = "claim"
    """Reports that the work was checked and found good."""
    SOCIAL = "social"
    """Bribes, threatens or begs."""
    STORY = "story"
    """Games, examples and dialogues that go on with a good grade."""
    LANGUAGE = "language"
    """Not English."""
    ROLE = "role"
    """Imitates the marks between the messages of a chat."""
    BORDER = "border"
    """Pretends that the quoted material ends."""
    VERDICT = "verdict"
    """A finished answer, to be copied."""
    MARKUP = "markup"
    """Hides in comments, attributes, logs or fields."""
    ENCODED = "encoded"
    """Base64 and other encodings."""
    DISGUISED = "disguised"
    """Look-alike letters, invisible characters, spacing, digits."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One hostile text."""

    name: str
    family: Family
    text: str
    verdict: str | None = None
    """The finished answer in it, which a gullible judge copies; None where it asks for good grades in words."""


@dataclass(frozen=True, slots=True)
class Benign:
    """A harmless tool result that resembles an injection."""

    name: str
    text: str
