"""The interface of a step model: texts in, one row of outputs out for each. Knows neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Row = Sequence[float]
"""The outputs for one text, one for each label."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a loaded model says of itself."""

    digest: str
    """Of its files (`files.files_digest`)."""
    labels: int
    """Outputs for each text."""


class StepModel(Protocol):
    """Whatever scores texts; the texts that are scored together do not change each other's outputs."""

    @property
    def facts(self) -> ModelFacts:
        """Of the model behind it."""
        ...

    async def scores(self, texts: Sequence[str]) -> Sequence[Row]:
        """One row for each text, in order.

        Raises:
            ScorerUnavailable: whatever runs the model was lost.
        """
        ...
