"""What the client sends: requests in chunks that the service takes, each as the bytes of one HTTP call. Pure.

Owns `Call` and how requests for scores are cut, keyed and packed.
"""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_service.wire import (
    MAX_BODY_BYTES,
    MAX_DEADLINE_MS,
    MAX_TRAJECTORIES,
    ConversationItem,
    ScoreOptions,
    ScoreRequest,
    SentTrajectory,
)

_CHUNK_BYTES = MAX_BODY_BYTES - 4096
"""Room for the envelope around the trajectories."""
_PACKED_BYTES = 64 * 1024
"""Smaller bodies are sent faster than they are packed."""
_SCORING_SHARE = 0.9
"""Of the time that a caller has; the rest is for the way, and for the answer."""
_LARGEST_RATIO = 100
"""Text packs to a third or a tenth. What packs far better looks to a service like an attack: it goes as it is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, the same at each try."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


MODELS = Call("GET", "/v1/models")
READY = Call("GET", "/readyz")


def score_call(request: ScoreRequest) -> Call:
    """`request` as one call, packed where it is large, with a key by which the service knows a repetition of it."""
    body = request.model_dump_json().encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{uuid.uuid4()}"'}
    if len(body) > _PACKED_BYTES:
        packed = gzip.compress(body, compresslevel=1)
        if len(body) <= _LARGEST_RATIO * len(packed):
            return Call("POST", "/v1/score", packed, headers | {"Content-Encoding": "gzip"})
    return Call("POST", "/v1/score", body, headers)


def parts(request: ScoreRequest) -> Iterator[ScoreRequest]:
    """`request` in chunks, in order, with all that it asks for besides."""
    for chunk in chunks(request.trajectories):
        yield request.model_copy(update={"trajectories": chunk})


def within(options: ScoreOptions, seconds: float) -> ScoreOptions:
    """`options` with a deadline that lets an answer arrive within `seconds`; one that the caller named stays."""
    if options.deadline_ms is not None:
        return options
    deadline = min(MAX_DEADLINE_MS, max(1, int(1000 * _SCORING_SHARE * seconds)))
    return options.model_copy(update={"deadline_ms": deadline})


def chunks(
    items: Sequence[SentTrajectory], max_items: int = MAX_TRAJECTORIES, max_bytes: int = _CHUNK_BYTES
) -> Iterator[tuple[SentTrajectory, ...]]:
    """Split `items` in order, so that no chunk is over either limit; a single item over `max_bytes` stands alone."""
    chunk: list[SentTrajectory] = []
    size = 0
    for item in items:
        item_bytes = len(item.model_dump_json().encode()) + 1
        if chunk and (len(chunk) == max_items or size + item_bytes > max_bytes):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(item)
        size += item_bytes
    if chunk:
        yield tuple(chunk)


def conversation_request(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    task: Mapping[str, Any] | None,
) -> ScoreRequest:
    """A request for the one trajectory that these chat messages made.

    Raises:
        pydantic.ValidationError: the messages, tools or task are not of the contract's form.
    """
    item = {"id": "conversation", "messages": messages, "tools": tools, "task": task}
    return ScoreRequest(trajectories=(ConversationItem.model_validate(item),))
