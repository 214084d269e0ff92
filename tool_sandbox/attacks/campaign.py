"""Runs attacks against a tier and says what held them.

Consumes a `Sandbox` whose tool takes a program as `code`, attacks and planted fixtures; produces one `Attempt` for
each. After each attack a harmless call must still work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tool_sandbox.attacks.attack import Attack, Theme
from tool_sandbox.attacks.fixtures import Fixtures
from tool_sandbox.attacks.verdicts import Outcome, Verdict, judge
from tool_sandbox.sandbox import Sandbox
from tool_sandbox.tools import IsolationLevel, ToolCall, ToolResult, Trust

HARMLESS = "x = 6 * 7"
_ABOUT_THE_ENDING = ("status ", "forged cost")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attack on one tier."""

    attack: str
    theme: Theme
    trust: Trust
    level: IsolationLevel
    outcome: Outcome
    by: str
    """What held it, or the evidence that it escaped."""


def attempts(sandbox: Sandbox, attacks: Sequence[Attack], fixtures: Fixtures) -> Iterator[Attempt]:
    """Try each attack, one after the other, on a sandbox with exactly one tool."""
    for attack in attacks:
        fixtures.reset()
        verdict = _try(sandbox, attack, fixtures)
        yield Attempt(attack.name, attack.theme, sandbox.trust, sandbox.level, verdict.outcome, verdict.by)


def _try(sandbox: Sandbox, attack: Attack, fixtures: Fixtures) -> Verdict:
    result = _call(sandbox, lambda: attack.arguments(fixtures.values))
    if attack.follow_up:
        result = _call(sandbox, lambda: {"code": attack.follow_up_program(fixtures.values)})
    after = _call(sandbox, lambda: {"code": HARMLESS})
    verdict = judge(attack, result, replace(fixtures.seen(), next_call=after.status))
    return _without_a_system(verdict, result) if sandbox.level is IsolationLevel.LANGUAGE else verdict


def _without_a_system(verdict: Verdict, result: ToolResult) -> Verdict:
    """Where the language has no files or processes, a program that asks for them ends at its first line: it was held.

    Evidence from outside and claims of success stay what they are; how the program should have ended does not count.
    """
    if not verdict.by.startswith(_ABOUT_THE_ENDING):
        return verdict
    last = (result.content.splitlines() or [""])[-1]
    return replace(verdict, outcome=Outcome.HELD, by=f"the language: {result.status.value} {last[:100]}".rstrip())


def _call(sandbox: Sandbox, arguments: Callable[[], Mapping[str, Any]]) -> ToolResult:
    (spec,) = sandbox.specs()
    session = sandbox.open()
    try:
        return session.call(ToolCall("attack", spec.name, arguments()))
    finally:
        session.close()
