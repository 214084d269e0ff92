"""The HTTP contract of `GET /v1/models`: what a service scores by, and what it takes."""

from __future__ import annotations

from pydantic import JsonValue

from reward_service.texts import MAX_CHARACTERS
from reward_service.wire import (
    MAX_BODY_BYTES,
    MAX_STEPS,
    MAX_TRAJECTORIES,
    SCHEMA_VERSION,
    Message,
)


class Limits(Message):
    """How much one request may carry."""

    trajectories: int = MAX_TRAJECTORIES
    steps: int = MAX_STEPS
    characters: int = MAX_CHARACTERS
    body_bytes: int = MAX_BODY_BYTES


class ModelCard(Message):
    """The scorer behind the service."""

    id: str
    schema_version: int = SCHEMA_VERSION
    reward_version: str
    shaping: dict[str, JsonValue]
    measured_by: dict[str, JsonValue]
    """How each signal is measured."""
    signals: dict[str, tuple[float, float]]
    """Range of each raw signal."""
    limits: Limits = Limits()


class ModelList(Message):
    """All scorers of the service."""

    data: tuple[ModelCard, ...]
