"""The seam to the language model that acts: token ids in, sampled token ids with log-probabilities out.

Owns the `GenerationEngine` protocol and its value types. `vllm_engine` is the real one; tests script a fake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.trajectory import VersionSpan


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one turn is sampled."""

    temperature: float
    """0 is greedy."""
    max_tokens: int
    seed: int | None = None
    """Per-request seed; None leaves it to the engine."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled turn."""

    token_ids: tuple[int, ...]
    """As sampled, the end-of-turn token included."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the distribution that it was drawn from, in nats."""
    versions: tuple[VersionSpan, ...]
    ended: bool
    """False when the turn ran into its token budget."""


class GenerationEngine(Protocol):
    """What an episode needs of an engine."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Generation:
        """Sample one turn.

        Raises:
            EngineFailure: no answer within the deadline.
        """
        ...

    async def token_logprobs(self, token_ids: Sequence[int], request_id: str) -> tuple[float, ...]:
        """Log-probabilities of `token_ids[1:]`, each given the tokens before it, under the weights now loaded."""
        ...
