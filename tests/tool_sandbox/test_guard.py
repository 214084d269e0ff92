"""No session before the isolation was attacked and held, and none after it did not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tool_sandbox.attacks.canaries import Verified
from tool_sandbox.config import PoolConfig, SandboxConfig
from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.guard import IsolationGuard
from tool_sandbox.isolation.level import Reached
from tool_sandbox.tiers import process_tiers, use_tiers
from tool_sandbox.tools import IsolationLevel

CONFIG = PoolConfig(verify_seconds=100.0)
HELD = Verified(Reached(IsolationLevel.NONE, 0, ()), 29, 1.0)


@pytest.fixture(autouse=True)
def tiers_of_the_process() -> Iterator[None]:
    """A guard chooses them for the process that it guards; this one has other tests to run."""
    before = process_tiers().settings
    yield
    use_tiers(before)


class _Machine:
    """Counts verifications; from the `breaks`-th on a canary gets out. Its clock stands still."""

    def __init__(self, breaks: int | None = None) -> None:
        self.verified = 0
        self.now = 0.0
        self._breaks = breaks

    def verify(self, config: SandboxConfig) -> Verified:
        self.verified += 1
        if self._breaks is not None and self.verified >= self._breaks:
            raise IsolationUnavailable("1 of 29 canaries: read_secret_file: escaped")
        return HELD

    def guard(self) -> IsolationGuard:
        return IsolationGuard(CONFIG, self.verify, lambda: self.now)


async def settle(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about in 5 s")


async def test_all_who_ask_at_once_wait_for_one_verification() -> None:
    machine = _Machine()
    guard = machine.guard()
    assert await asyncio.gather(*(guard.verified() for _ in range(5))) == [HELD] * 5
    assert machine.verified == 1


async def test_it_is_verified_again_when_its_time_has_come_and_nobody_waits_for_that() -> None:
    machine = _Machine()
    guard = machine.guard()
    await guard.verified()
    machine.now = 99.0
    await guard.verified()
    assert machine.verified == 1
    machine.now = 100.0
    assert await guard.verified() == HELD
    await settle(lambda: machine.verified == 2)
    await guard.verified()
    assert machine.verified == 2


async def test_isolation_that_never_held_is_refused_every_time() -> None:
    guard = _Machine(breaks=1).guard()
    for _ in range(2):
        with pytest.raises(IsolationUnavailable, match="read_secret_file"):
            await guard.verified()


async def test_isolation_that_holds_no_more_ends_the_service() -> None:
    machine = _Machine(breaks=2)
    guard = machine.guard()
    await guard.verified()
    machine.now = 200.0
    await guard.verified()
    await settle(lambda: machine.verified == 2)
    await asyncio.sleep(0.05)
    with pytest.raises(IsolationUnavailable, match="read_secret_file"):
        await guard.verified()
