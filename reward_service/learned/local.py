"""A step model in this process, for one machine: one batch at a time, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reward_service.errors import StepModelUnusable
from reward_service.learned.batching import batches
from reward_service.learned.config import StepModelConfig
from reward_service.learned.model import ModelFacts, Row

if TYPE_CHECKING:
    from reward_service.learned.classifier import Classifier


class LocalStepModel:
    """A `StepModel` for one event loop, which never waits for the model's arithmetic."""

    def __init__(self, config: StepModelConfig) -> None:
        """Load the model.

        Raises:
            StepModelUnusable: see `classifier.Classifier`; also where its libraries are not installed.
        """
        self._classifier = load_classifier(config)
        self._most = config.batch_tokens
        self._turn = asyncio.Lock()

    @property
    def facts(self) -> ModelFacts:
        return self._classifier.facts

    async def scores(self, texts: Sequence[str]) -> Sequence[Row]:
        """One row for each text, in order."""
        async with self._turn:
            return await asyncio.to_thread(self._scored, texts)

    def _scored(self, texts: Sequence[str]) -> list[Row]:
        encoded = self._classifier.encoded(texts)
        rows: dict[int, Row] = {}
        for batch in batches([len(one) for one in encoded], self._most):
            rows |= zip(batch, self._classifier.rows([encoded[i] for i in batch]), strict=True)
        return [rows[i] for i in range(len(texts))]


def load_classifier(config: StepModelConfig) -> Classifier:
    """The model, loaded.

    Raises:
        StepModelUnusable: see `classifier.Classifier`; also where its libraries are not installed.
    """
    try:
        from reward_service.learned.classifier import Classifier
    except ModuleNotFoundError as error:
        raise StepModelUnusable(
            config.model, f"{error.name} is not installed here, which runs it; install steptool[cpu] or steptool[gpu]"
        ) from error
    return Classifier(config)
