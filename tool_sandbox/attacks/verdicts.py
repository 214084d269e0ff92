"""Did the sandbox hold? Pure: consumes an attack, the result of its call and what was seen outside; produces a verdict.

Evidence from outside goes before what the code says of itself: hostile code may lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tool_sandbox.attacks.attack import Attack
from tool_sandbox.tools import CallStatus, ToolResult


class Outcome(StrEnum):
    """How an attack ended."""

    HELD = "held"
    ESCAPED = "escaped"
    INCONCLUSIVE = "inconclusive"
    """The call failed in a way that says nothing about the sandbox. Look at it: it is not a success."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one attack."""

    attack: str
    outcome: Outcome
    by: str
    """What held it (the errno or reason, or the call's status), or the evidence that it escaped."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """What was seen outside the sandbox since the fixtures were last reset."""

    secret: str
    """What was planted; wherever it shows, it was read."""
    visitors: tuple[str, ...] = ()
    """Listeners of the host that somebody reached: `tcp`, `udp`, `unix`, `abstract`."""
    victim: str | None = None
    """What was done to the victim process; None where nothing was."""
    changes: tuple[str, ...] = ()
    """What is new or different in the folder outside."""
    daemons: tuple[int, ...] = ()
    """Processes of the attack that outlive its call."""
    next_call: CallStatus | None = None
    """How a harmless call afterwards ended; filled in by whoever makes it. None: nobody looked."""


def judge(attack: Attack, result: ToolResult, seen: Sightings) -> Verdict:
    """The verdict on the call that gave it: the second one, where an attack has a follow-up."""
    evidence = next(_evidence(attack, result, seen), None)
    if evidence is not None:
        return Verdict(attack.name, Outcome.ESCAPED, evidence)
    reason = None if attack.silent else _line(result, "HELD")
    if reason is not None:
        return Verdict(attack.name, Outcome.HELD, reason)
    if result.status in attack.held_by:
        return Verdict(attack.name, Outcome.HELD, f"status {result.status}")
    if attack.silent:
        return Verdict(attack.name, Outcome.ESCAPED, f"status {result.status}")
    return Verdict(attack.name, Outcome.INCONCLUSIVE, f"status {result.status}: {result.content[:160]!r}")


def _evidence(attack: Attack, result: ToolResult, seen: Sightings) -> Iterator[str]:
    """Reasons to say that it escaped, the strongest first."""
    if seen.secret in result.content:
        yield "the planted secret is in the result"
    if seen.visitors:
        yield f"reached listeners of the host: {', '.join(seen.visitors)}"
    if seen.victim is not None:
        yield f"a process of the host {seen.victim}"
    if seen.changes:
        yield f"outside: {', '.join(seen.changes)}"
    if seen.daemons:
        yield f"processes outlive the call: {', '.join(map(str, seen.daemons))}"
    if not math.isfinite(result.cpu_seconds) or result.cpu_seconds < attack.cpu_seconds:
        yield f"forged cost: {result.cpu_seconds:g} CPU seconds, at least {attack.cpu_seconds:g} were used"
    if seen.next_call not in (None, CallStatus.OK):
        yield f"the next call ended with {seen.next_call}"
    claim = _line(result, "ESCAPED")
    if claim is not None:
        yield claim


def _line(result: ToolResult, word: str) -> str | None:
    """The rest of the first line that begins with the word."""
    for line in result.content.splitlines():
        if line.startswith(word + " "):
            return line[len(word) + 1 :]
    return None
