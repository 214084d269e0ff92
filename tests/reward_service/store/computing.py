"""Computations that the tests can count, hold and fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from reward_service.store.keys import Key
from reward_service.store.once import Failure, Outcome

_LOOK_SECONDS = 0.01
SOON = 30.0
"""Seconds; a deadline that no test is meant to reach."""


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again until `condition` holds."""
    async with asyncio.timeout(SOON):
        while True:
            if condition():
                return
            await asyncio.sleep(_LOOK_SECONDS)


def key(name: str = "a", ordinal: int = 0) -> Key:
    return Key("score", "v1", name, ordinal)


class Counting:
    """Answers each key with its digest, and counts."""

    def __init__(self, keys: Sequence[Key], suffix: bytes = b"") -> None:
        self.keys = keys
        self.suffix = suffix
        self.calls: list[list[int]] = []

    @property
    def times(self) -> Counter[Key]:
        return Counter(self.keys[position] for call in self.calls for position in call)

    async def __call__(self, positions: Sequence[int]) -> Sequence[Outcome]:
        self.calls.append(list(positions))
        return [self.keys[position].digest.encode() + self.suffix for position in positions]


class Held(Counting):
    """Begins, says so, and answers when it is let go."""

    def __init__(self, keys: Sequence[Key], suffix: bytes = b"") -> None:
        super().__init__(keys, suffix)
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, positions: Sequence[int]) -> Sequence[Outcome]:
        outcomes = await super().__call__(positions)
        self.begun.set()
        await self.let_go.wait()
        return outcomes


class HeldThenFailing(Held):
    """As `Held`, and then gives nothing but failures."""

    async def __call__(self, positions: Sequence[int]) -> Sequence[Outcome]:
        await super().__call__(positions)
        return [Failure(RuntimeError("no reply")) for _ in positions]
