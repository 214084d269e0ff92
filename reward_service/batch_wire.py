"""The HTTP contract of `POST /v1/score/batches`: work that outlives its request.

Owns the request and the answers. Trajectories and results are those of `wire`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from reward_service.wire import SCHEMA_VERSION, Identifier, ItemResult, Message, SentTrajectory, expect_unique_ids

MAX_BATCH_TRAJECTORIES = 4096
MAX_BATCH_BYTES = 64 * 2**20
MAX_OPEN_BATCHES = 32
"""Of one key, as long as they have work left."""
CHUNK_TRAJECTORIES = 16
"""What one worker takes at a time, and at most loses when it dies."""


class BatchOptions(Message):
    """How to answer."""

    explain: bool = False
    """As in `POST /v1/score`."""


class BatchRequest(Message):
    """Trajectories to score when there is time."""

    schema_version: Literal[1] = SCHEMA_VERSION
    reward_version: Identifier | None = None
    """Refuse the work unless the service has this version; null takes any. All of a batch is scored by one version."""
    options: BatchOptions = BatchOptions()
    trajectories: Annotated[tuple[SentTrajectory, ...], Field(min_length=1, max_length=MAX_BATCH_TRAJECTORIES)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> BatchRequest:
        expect_unique_ids(self.trajectories)
        return self


class BatchStatus(Message):
    """How far a batch is."""

    id: str
    status: Literal["running", "done", "cancelled"]
    chunks: PositiveInt
    """Parts of at most 16 trajectories."""
    finished_chunks: NonNegativeInt
    created_at: float
    """Seconds since 1970."""
    expires_at: float
    """Seconds since 1970; the batch and its results are gone then."""


class BatchResults(Message):
    """What there is of a batch's results."""

    id: str
    status: Literal["running", "done", "cancelled"]
    """Complete where it is `done`; else there may be gaps, so go by the ids."""
    reward_version: str | None
    """Null where nothing is finished yet."""
    results: tuple[ItemResult, ...]
    """In the order of the request."""
