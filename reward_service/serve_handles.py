"""How one deployment asks another: what Serve and Ray say of a lost one becomes `ScorerUnavailable`. Loads Ray."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.exceptions import RayServeException

from reward_service.errors import ScorerUnavailable
from tool_sandbox.ray_failures import ACTOR_LOST


async def answer(response: Any, scorer: str) -> Any:
    """What came of a call of a handle; `scorer` names the deployment in errors.

    Raises:
        ScorerUnavailable: the replica was lost, or the queue is full.
    """
    try:
        return await response
    except (*ACTOR_LOST, RayServeException) as error:
        raise ScorerUnavailable(f"{scorer}: its deployment gave no scores ({type(error).__name__})") from error
    except asyncio.CancelledError:
        # Nobody waits any more; let the replica spend its time on others.
        response.cancel()
        raise


async def first_answer(response: Any, scorer: str, seconds: float) -> Any:
    """What came of the first call, which waits at most `seconds` for a replica to come up.

    Raises:
        ScorerUnavailable: none did.
    """
    try:
        async with asyncio.timeout(seconds):
            return await answer(response, scorer)
    except TimeoutError as error:
        raise ScorerUnavailable(f"{scorer}: no replica answered within {seconds:g} s; see `serve status`") from error
