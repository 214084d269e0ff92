"""Keeps a process from serving sessions before its isolation was attacked and held, and after it did not hold any more.

Owns `IsolationGuard`. The canaries run in a thread, so that sessions go on while they are repeated. Knows nothing of
Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from tool_sandbox.attacks.canaries import Verified, verify
from tool_sandbox.config import PoolConfig, SandboxConfig
from tool_sandbox.tiers import TierSettings, use_tiers
from tool_sandbox.tools import IsolationLevel

log = logging.getLogger(__name__)


class IsolationGuard:
    """Verifies at the first question, and again whenever `verify_seconds` have passed at one. For one event loop."""

    def __init__(
        self,
        config: PoolConfig,
        verify: Callable[[SandboxConfig], Verified] = verify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._verify = verify
        self._clock = clock
        self._first: asyncio.Task[Verified] | None = None
        self._again: asyncio.Task[Verified] | None = None
        self._checked = 0.0

    async def verified(self) -> Verified:
        """What holds here; waits for the first verification, and only for that.

        Raises:
            IsolationUnavailable: the level is below what was asked for, or a canary got out, now or the last time.
        """
        if self._first is None:
            self._first = asyncio.create_task(self._attack())
        found = await asyncio.shield(self._first)
        if self._again is not None and self._again.done():
            self._first, self._again = self._again, None
            return await self.verified()
        if self._again is None and self._clock() - self._checked >= self._config.verify_seconds:
            self._again = asyncio.create_task(self._attack())
        return found

    async def _attack(self) -> Verified:
        found = await asyncio.to_thread(self._verify, self._config.isolation)
        self._checked = self._clock()
        _announce(found)
        settings = TierSettings(self._config.isolation, found.level, self._config.language, self._config.remote)
        await asyncio.to_thread(use_tiers, settings)
        return found


def _announce(found: Verified) -> None:
    text = "isolation level %s: %d canaries held in %.1f s"
    weaker = f"; no stronger level because {'; '.join(found.reached.reasons)}" if found.reached.reasons else ""
    severity = logging.INFO if found.level is IsolationLevel.NAMESPACES else logging.WARNING
    log.log(severity, text + "%s", found.level.value, found.canaries, found.seconds, weaker)
