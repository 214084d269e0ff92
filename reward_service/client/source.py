"""The protocol that callers of a reward service need, whether it is near or far."""

from __future__ import annotations

from typing import Protocol

from reward_service.wire import ScoreRequest, ScoreResponse


class RewardSource(Protocol):
    """Whatever scores a request: a client, the service in this process, or a fake."""

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """One result for each trajectory, in order."""
        ...
