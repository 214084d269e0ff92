"""Who gets the next free session: a waiting room that is fair between runs.

Owns `WaitingRoom`. Places go to the waiting owner that holds the fewest, so that a run that asks for a thousand cannot
keep out one that asks for ten; between equals, to whoever waits longest. Knows nothing of sessions or Ray.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Waiter:
    owner: str
    granted: Future[None]


class WaitingRoom:
    """A fixed number of places. Safe to use from many threads."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._lock = threading.Lock()

    def ask(self, owner: str) -> Future[None]:
        """Ask for a place. The future is done once it is granted; `give_up` takes the question back."""
        waiter = _Waiter(owner, Future())
        with self._lock:
            self._waiting.append(waiter)
            self._grant()
        return waiter.granted

    def give_up(self, owner: str, granted: Future[None]) -> None:
        """Stop waiting. A place that was granted meanwhile goes back."""
        with self._lock:
            before = len(self._waiting)
            self._waiting = [waiter for waiter in self._waiting if waiter.granted is not granted]
            if len(self._waiting) == before:
                self._release(owner)

    def release(self, owner: str) -> None:
        """Give a place back."""
        with self._lock:
            self._release(owner)

    def held(self) -> dict[str, int]:
        """Places by owner; those who hold none are not named."""
        with self._lock:
            return {owner: count for owner, count in self._held.items() if count}

    def waiting(self) -> int:
        with self._lock:
            return len(self._waiting)

    def _release(self, owner: str) -> None:
        self._held[owner] -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._held.total() < self._places:
            # `min` keeps the first of equals, which is the one that has waited longest.
            waiter = min(self._waiting, key=lambda waiter: self._held[waiter.owner])
            self._waiting.remove(waiter)
            self._held[waiter.owner] += 1
            waiter.granted.set_result(None)
