"""Proves that a level of isolation holds here and now, before any of the model's code runs behind it.

Consumes `SandboxConfig`; produces `Verified`, or refuses. The canaries are the attacks of the corpus that a sandbox
must hold to be trusted with files, network and processes, and within its budgets; each is known to succeed outside.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tool_sandbox.attacks.campaign import Attempt, attempts
from tool_sandbox.attacks.corpus import all_attacks
from tool_sandbox.attacks.fixtures import Fixtures
from tool_sandbox.attacks.verdicts import Outcome
from tool_sandbox.config import MIB, SandboxConfig
from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import Reached, reach
from tool_sandbox.isolation.python_tool import PYTHON
from tool_sandbox.tools import IsolationLevel

# Small budgets, so that bombs are held quickly; how they are held does not depend on the size.
_QUICK = {"cpu_seconds": 1, "wall_seconds": 1.0, "workers": 1, "memory_bytes": 128 * MIB, "tmp_bytes": 16 * MIB}


@dataclass(frozen=True, slots=True)
class Verified:
    """A level that was attacked and held."""

    reached: Reached
    canaries: int
    seconds: float

    @property
    def level(self) -> IsolationLevel:
        return self.reached.level


def verify(config: SandboxConfig) -> Verified:
    """Reach the strongest level here and attack it.

    Raises:
        IsolationUnavailable: the machine does not reach `config.min_level`, or a canary got out. Nothing may run then.
    """
    started = time.monotonic()
    reached = reach(config)
    if reached.level is IsolationLevel.NONE:
        return Verified(reached, 0, time.monotonic() - started)
    tried = attack(config, reached.level)
    failed = [attempt for attempt in tried if attempt.outcome is not Outcome.HELD]
    if failed:
        named = "; ".join(f"{one.attack}: {one.outcome.value}, {one.by}" for one in failed)
        raise IsolationUnavailable(
            f"sandbox: the level {reached.level.value!r} does not hold on this machine ({len(failed)} of {len(tried)} "
            f"canaries: {named}). No tool that runs the model's code may start here; see steptool sandbox attack"
        )
    return Verified(reached, len(tried), time.monotonic() - started)


def attack(config: SandboxConfig, level: IsolationLevel) -> list[Attempt]:
    """What became of each canary at a level."""
    canaries = [attack for attack in all_attacks() if attack.canary]
    sandbox = IsolatedSandbox([PYTHON], config.model_copy(update=_QUICK), level)
    try:
        with Fixtures(uid=config.uid) as fixtures:
            return list(attempts(sandbox, canaries, fixtures))
    finally:
        sandbox.close()
