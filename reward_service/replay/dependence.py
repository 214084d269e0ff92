"""Which calls a model could not have made without an earlier one, because it learned their arguments from its result.

Owns `Dependence`. A word of an argument is *learned* where it stood in the result of an earlier call, and was neither
in what the user said nor used by the model before any result showed it. Pure. Sets of calls are bit masks of their
positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+")

Sources = frozenset[int]
"""For each learned word of a text, the mask of the calls whose results showed it before."""


@dataclass(frozen=True, slots=True)
class Deed:
    """A call with its result, or an answer with what the user said to it."""

    arguments: object
    """A JSON value; None for an answer."""
    result: str
    """What came back."""
    is_call: bool


@dataclass(frozen=True, slots=True)
class Dependence:
    """What each thing that was done needs, and what the answer needs."""

    needs: tuple[Sources, ...]
    answer: Sources

    def gone_without(self, position: int) -> int:
        """The mask of the call at `position` and of all that could not have been done without it."""
        gone = 1 << position
        for later in range(position + 1, len(self.needs)):
            if _lacks(self.needs[later], gone):
                gone |= 1 << later
        return gone

    def knows_answer(self, gone: int) -> bool:
        """Whether the answer could still have been given without the calls in the mask `gone`."""
        return not _lacks(self.answer, gone)


def dependence(prompt: str, deeds: Sequence[Deed], answer: str) -> Dependence:
    """Follow every word from where it was first seen to where it is used."""
    free = set(_words(prompt))
    shown: dict[str, int] = {}
    needs: list[Sources] = []
    for position, deed in enumerate(deeds):
        used = set(_words(deed.arguments))
        needs.append(_sources(used, free, shown))
        free |= used - shown.keys()
        if deed.is_call:
            for word in set(_words(deed.result)):
                shown[word] = shown.get(word, 0) | 1 << position
        else:
            free |= set(_words(deed.result))
    return Dependence(tuple(needs), _sources(set(_words(answer)), free, shown))


def _sources(used: set[str], free: set[str], shown: Mapping[str, int]) -> Sources:
    return frozenset(shown[word] for word in used - free if word in shown)


def _lacks(sources: Sources, gone: int) -> bool:
    return any(mask & ~gone == 0 for mask in sources)


def _words(value: object) -> Iterator[str]:
    """Of every text and number in a JSON value, in lower case."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, list | tuple):
            left.extend(one)
        elif one is not None:
            yield from _WORD.findall(str(one).casefold())
