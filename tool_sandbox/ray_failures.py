"""Which of Ray's exceptions mean that a process is gone, so that every floor draws the same conclusion.

Not every one is a `RayActorError`: a worker that Ray ended because the machine ran out of memory has a type of its own.
"""

from __future__ import annotations

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

ACTOR_LOST = (RayActorError, OutOfMemoryError, NodeDiedError, WorkerCrashedError)
"""The actor, its worker or its node is gone. What it was asked may be asked again, of its successor."""
